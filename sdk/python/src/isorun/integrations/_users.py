"""A script that runs a command as another user than the one of the image."""

from __future__ import annotations

from collections.abc import Sequence

# The directories from which a program that runs with other privileges than the agent is taken.
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

EXIT_NOT_EXECUTABLE = 126
# The exit code for an image that does not allow it, with a line that says why.
_EXIT_REFUSED = 96
_REFUSALS = {
    "isorun: no setpriv": "the image has no `setpriv` of util-linux",
    "isorun: not root": "the user of the image is not root, and cannot become another one",
}

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
own=$(id -u)
if [ "$own" = "$uid" ] && [ "$own" != 0 ]; then PATH=$image_path; exec "$@"; fi
[ "$own" = 0 ] || {{ echo "isorun: not root" >&2; exit {_EXIT_REFUSED}; }}
command -v setpriv >/dev/null || {{ echo "isorun: no setpriv" >&2; exit {_EXIT_REFUSED}; }}
HOME=$home; USER=$name; export HOME USER
exec setpriv --reuid "$uid" --regid "$gid" $groups -- \
  /bin/sh -c 'PATH=$1; shift; exec "$@"' sh "$image_path" "$@"
"""


def as_user(user: str, argv: Sequence[str]) -> list[str]:
    """Returns the command that runs another one as this user."""
    return ["/bin/sh", "-c", _AS_USER, "sh", user, *argv]


def refusal(exit_code: int, stderr: str) -> str | None:
    """Returns why such a command was not run, if its result says so."""
    return _REFUSALS.get(stderr.strip()) if exit_code == _EXIT_REFUSED else None
