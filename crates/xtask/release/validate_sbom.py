"""Validates a bill of materials against the schema of CycloneDX, and that it is complete."""

import json
import pathlib
import sys

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

# One part of each kind: programs, crates, what is inside the guests, and Debian's packages.
EXPECTED = [
    "isola-cli",
    "isorun",
    "isorun-agent",
    "isola-node",
    "isola-python",
    "wasmtime",
    "aws-lc-rs",
    "python.wasm",
    "python-data.wasm",
    "numpy",
    "js.wasm",
    "cpython",
    "cpython-stdlib",
    "PyYAML",
    "zstd-sys",
    "@bytecodealliance/componentize-js",
    "SpiderMonkey",
    "OpenSSL",
    "sucrase",
    "runsc",
    "gvisor.dev/gvisor",
    "std",
    "nftables",
]


def main(path: str) -> None:
    text = pathlib.Path(path).read_text()
    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        sys.exit(f"{path} does not match the schema: {error}")
    bill = json.loads(text)
    names = {component["name"] for component in bill["components"]}
    if missing := [name for name in EXPECTED if name not in names]:
        sys.exit(f"{path} lacks components: {', '.join(missing)}")
    for component in bill["components"]:
        is_crate = component.get("purl", "").startswith("pkg:cargo/")
        if is_crate and not component.get("licenses"):
            sys.exit(f"{path}: {component['bom-ref']} has no licence")
    print(f"{len(names)} components")


if __name__ == "__main__":
    main(sys.argv[1])
