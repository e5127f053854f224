"""What goes wrong with TPMs, event logs and quotes. All are OSErrors with one line of text: a start that fails with one
fails like with any other error of the machine."""

from typing import Final

_NAMES: Final = {
    0x082: "TPM_RC_ATTRIBUTES",
    0x083: "TPM_RC_HASH",
    0x084: "TPM_RC_VALUE",
    0x085: "TPM_RC_HIERARCHY: the hierarchy is disabled",
    0x08B: "TPM_RC_HANDLE: there is no such handle",
    0x08E: "TPM_RC_AUTH_FAIL: it has a password",
    0x092: "TPM_RC_SCHEME",
    0x095: "TPM_RC_SIZE",
    0x09C: "TPM_RC_KEY: not a key that signs quotes",
    0x0A2: "TPM_RC_BAD_AUTH: it has a password",
    0x100: "TPM_RC_INITIALIZE: the TPM was not started (TPM2_Startup), which firmware does",
    0x101: "TPM_RC_FAILURE: the TPM is in failure mode until it is reset",
    0x120: "TPM_RC_DISABLED: the firmware has it disabled",
    0x127: "TPM_RC_PCR",
    0x12D: "TPM_RC_UPGRADE: the TPM is being upgraded",
    0x130: "TPM_RC_REBOOT: the TPM wants a reboot",
    0x143: "TPM_RC_COMMAND_CODE: the TPM does not know this command",
    0x902: "TPM_RC_OBJECT_MEMORY: all its places for keys are taken; use /dev/tpmrm0, not /dev/tpm0",
    0x907: "TPM_RC_LOCALITY: this PCR cannot be extended from the operating system",
    0x908: "TPM_RC_YIELDED",
    0x909: "TPM_RC_CANCELED",
    0x90A: "TPM_RC_TESTING: it tests itself",
    0x910: "TPM_RC_REFERENCE_H0: there is no such handle",
    0x920: "TPM_RC_NV_RATE",
    0x921: "TPM_RC_LOCKOUT: it is locked after wrong passwords (tpm2_dictionarylockout)",
    0x922: "TPM_RC_RETRY",
    0x923: "TPM_RC_NV_UNAVAILABLE",
}
_AGAIN: Final = frozenset({0x908, 0x90A, 0x920, 0x922})


class TpmError(OSError):
    """The base of all; also: what cannot be reached, or answers with nonsense."""


class ResponseError(TpmError):
    """The TPM refused a command. code: the TPM_RC, without the number of the handle, session or parameter it means.

    TPM 2.0 part 2, 6.6: format-one codes have bit 7, then bits 6 and 8 to 11 say what they are about.
    """

    def __init__(self, command: str, rc: int) -> None:
        self.code = rc & 0xBF if rc & 0x80 else rc
        super().__init__(f"the TPM refused {command}: {_NAMES.get(self.code, 'error')} (0x{rc:03x})")

    @property
    def again(self) -> bool:
        """Nothing was done, and the same command may succeed soon."""
        return self.code in _AGAIN


class BankError(TpmError):
    """The PCR is not in the SHA-256 bank of this TPM."""


class LogError(TpmError):
    """The event log is damaged: no replay of it can be believed."""


class MismatchError(TpmError):
    """Event log and PCR do not tell the same."""


class AttestationError(TpmError):
    """An attestation is not what it should be."""
