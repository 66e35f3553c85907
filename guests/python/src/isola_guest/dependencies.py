"""Dependencies of a script from its inline script metadata (PEP 723).

Dependencies with a URL are imported from there. Others must be available
already: bundled with the guest, or on a mount in `sys.path`.
"""

import sys
import tomllib
from importlib import metadata

from . import known_packages, remote

_BEGIN = "# /// script"
_END = "# ///"

# The (name, URL) pairs of the importers that are on `sys.meta_path` already.
_known = set()


def provide(source, name):
    """Makes the dependencies that a script's metadata names importable."""
    block, line = _block(source, name)
    if block is None:
        return
    try:
        script_metadata = tomllib.loads(block)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(
            f"{name}: the script metadata after line {line} is not TOML: {error}"
        ) from None
    where = f"{name}, script metadata"
    # Imported here because the import is slow and most scripts have no metadata.
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    python = script_metadata.get("requires-python", "")
    try:
        fits = SpecifierSet(python).contains(_version(), prereleases=True)
    except (InvalidSpecifier, TypeError, AttributeError):
        raise ValueError(
            f"{where}: requires-python {python!r} is not a valid version specifier"
        ) from None
    if not fits:
        raise ImportError(f"{where}: it requires Python {python}, but this is {_version()}")
    dependencies = script_metadata.get("dependencies", [])
    if not isinstance(dependencies, list) or not all(isinstance(one, str) for one in dependencies):
        raise ValueError(f"{where}: dependencies is not a list of strings")
    for text in dependencies:
        try:
            requirement = Requirement(text)
        except InvalidRequirement as error:
            raise ValueError(f"{where}: {text!r} is not a valid dependency: {error}") from None
        if requirement.marker is None or requirement.marker.evaluate():
            _provide_one(requirement, where)


def _provide_one(requirement, where):
    if requirement.url is None:
        _check_installed(requirement, where)
    elif (key := (requirement.name, requirement.url)) not in _known:
        scheme, separator, _ = requirement.url.partition("://")
        if not separator or scheme.lower() not in ("http", "https"):
            raise ImportError(
                f"{where}: {requirement.name} is at {requirement.url!r}, "
                "but only http and https URLs are supported"
            )
        # A server does not list the modules of a directory, so only the module with
        # the name of the requirement is requested.
        module = requirement.name.replace("-", "_").replace(".", "_")
        sys.meta_path.append(remote.Importer(requirement.url, only_module=module))
        _known.add(key)


def _check_installed(requirement, where):
    name = requirement.name
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        why = known_packages.reason_of_package(name)
        raise ModuleNotFoundError(
            f"{where}: it depends on {name!r}, which is neither bundled with this guest nor on a "
            + (
                f"mount: {why}"
                if why
                else f"mount; give a URL as in '{name} @ https://...', or mount a site-packages "
                "directory"
            ),
            name=name,
        ) from None
    if not requirement.specifier.contains(version, prereleases=True):
        raise ImportError(f"{where}: it depends on '{requirement}', but {name} is {version} here")


def _block(source, name):
    """Returns the TOML of the block and the line in which it starts, or None."""
    lines = source.splitlines()
    starts = [number for number, line in enumerate(lines) if line.rstrip() == _BEGIN]
    blocks = []
    for start in starts:
        end = None
        content = []
        for number, line in enumerate(lines[start + 1 :]):
            if line.rstrip() == _END:
                # The last end marker within the comment counts.
                end = number
            elif not (line == "#" or line.startswith("# ")):
                break
            content.append(line[2:])
        if end is not None:
            blocks.append(("\n".join(content[:end]), start + 1))
    if len(blocks) > 1:
        raise ValueError(f"{name}: there is more than one block of script metadata")
    return blocks[0] if blocks else (None, 0)


def _version():
    return ".".join(map(str, sys.version_info[:3]))
