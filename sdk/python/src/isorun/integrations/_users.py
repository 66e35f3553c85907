"""A script that runs a command as another user than the one of the image."""

from __future__ import annotations

from collections.abc import Sequence

# The directories from which a program that runs with other privileges than the agent is taken.
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

EXIT_NOT_EXECUTABLE = 126
# The exit code for an image without `setpriv`, with a line that says so.
EXIT_NO_SETPRIV = 96
NO_SETPRIV = "isorun: no setpriv"

# Runs the arguments after the first one as that user, by name or number. The search path of the
# image does not apply to what runs as root.
_AS_USER = rf"""
image_path=${{PATH-}}
PATH={SYSTEM_PATH}
wanted=$1; shift
name=
while IFS=: read -r n _ u g _ h _; do
  if [ "$n" = "$wanted" ] || [ "$u" = "$wanted" ]; then
    name=$n; uid=$u; gid=$g; home=$h; break
  fi
done < /etc/passwd
groups=--init-groups
if [ -z "$name" ]; then
  case $wanted in
    *[!0-9]*|'') echo "there is no user $wanted in /etc/passwd" >&2; exit {EXIT_NOT_EXECUTABLE};;
  esac
  uid=$wanted; gid=$wanted; home=/; groups=--clear-groups
fi
command -v setpriv >/dev/null || {{ echo "{NO_SETPRIV}" >&2; exit {EXIT_NO_SETPRIV}; }}
HOME=$home; USER=$name; export HOME USER
exec setpriv --reuid "$uid" --regid "$gid" $groups -- \
  /bin/sh -c 'PATH=$1; shift; exec "$@"' sh "$image_path" "$@"
"""


def as_user(user: str, argv: Sequence[str]) -> list[str]:
    """Returns the command that runs another one as this user. It must be run as root."""
    return ["/bin/sh", "-c", _AS_USER, "sh", user, *argv]


def lacks_setpriv(exit_code: int, stderr: str) -> bool:
    """True if the result of such a command says that the image has no `setpriv`."""
    return exit_code == EXIT_NO_SETPRIV and stderr.strip() == NO_SETPRIV
