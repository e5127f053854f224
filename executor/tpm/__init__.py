"""Measured boot of pods: what is started is extended into a PCR of a TPM 2.0, written down, and attested by a quote.

    settings ─▶ measure ─▶ recorder ─┬▶ log (events, replay)      attest ─▶ verify (needs no TPM)
                                     └▶ commands ─▶ transport ─▶ TPM

Not here: what firmware, boot loader and kernel measured (PCRs 0 to 9), and who judges the events
(docs/measured-boot.md).
"""
