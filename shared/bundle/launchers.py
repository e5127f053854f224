"""The programs in a bundle's `bin`: shell scripts that start its Python through its own loader.

`--argv0` makes Python believe that the script is the interpreter: it finds its library beside it, and what starts
`sys.executable` again, as stage1 does, comes through here. OpenSSL looks for the authorities where its builder's
distribution has them; others have them elsewhere.
"""

from typing import Final

LAUNCHERS: Final = {"python3": "", "gantry": "-I -m gantry ", "gantry-executor": "-I -m gantry executor "}

_SCRIPT: Final = """\
#!/bin/sh
case $0 in
  */*) bin=${0%%/*} ;;
  *) bin=$(command -v -- "$0") && bin=${bin%%/*} ;;
esac
root=$(cd "$bin/.." && pwd -P) || exit 1
if [ -z "${SSL_CERT_FILE:-}" ]; then
  for file in /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt /etc/ssl/ca-bundle.pem \\
    /etc/ssl/cert.pem; do
    if [ -r "$file" ]; then export SSL_CERT_FILE="$file"; break; fi
  done
fi
exec "$root/lib/%(loader)s" --argv0 "$root/bin/python3" --inhibit-rpath '' --library-path "$root/lib" \\
  "$root/lib/python" %(arguments)s"$@"
"""


def script(name: str, loader: str) -> str:
    return _SCRIPT % {"loader": loader, "arguments": LAUNCHERS[name]}
