"""Checks the manifests of Kubernetes in a checkout, whose path is the argument.

They have to match the schemas of Kubernetes, which the package kubernetes-validate contains, and
each other: names that one refers to exist in another, and the options are those of the server.
Prints one line for each problem.
"""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml

# The oldest and the newest version of Kubernetes that the manifests are checked for.
VERSIONS = ["1.28", "1.37"]
DIRECTORY = "deploy/kubernetes"
EXAMPLE = "secret.example.yaml"
KUSTOMIZATION = "kustomization.yaml"
COMMANDS = "crates/isorun/src/command"

Document = dict[str, Any]


def schema_problem(document: Document, version: str) -> str | None:
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return f"Kubernetes {version}: {error.message}"
    return None


def check_schemas(documents: list[Document]) -> list[str]:
    problems = []
    for document in documents:
        name = f"{document['kind']} {document['metadata']['name']}"
        for version in VERSIONS:
            problem = schema_problem(document, version)
            if problem:
                problems.append(f"{name}: {problem}")
            # Otherwise the schemas would not find a misspelt field either.
            wrong = copy.deepcopy(document) | {"metdata": {}}
            if schema_problem(wrong, version) is None:
                problems.append(f"{name}: the schema of Kubernetes {version} permits any field")
    return problems


def check_references(documents: list[Document]) -> list[str]:
    def of(kind: str) -> list[Document]:
        return [document for document in documents if document["kind"] == kind]

    problems = []
    (daemon_set,) = of("DaemonSet")
    template = daemon_set["spec"]["template"]
    labels = template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    used = [container[f"{kind}Probe"]["httpGet"]["port"] for kind in ["startup", "liveness"]]
    used.append(container["readinessProbe"]["httpGet"]["port"])
    selectors = [daemon_set["spec"]["selector"]["matchLabels"]]
    for service in of("Service"):
        selectors.append(service["spec"]["selector"])
        used += [port["targetPort"] for port in service["spec"]["ports"]]
    for budget in of("PodDisruptionBudget"):
        selectors.append(budget["spec"]["selector"]["matchLabels"])
    for policy in of("NetworkPolicy"):
        selectors.append(policy["spec"]["podSelector"]["matchLabels"])
        for rule in policy["spec"]["ingress"]:
            used += [port["port"] for port in rule["ports"]]
            peers = rule.get("from", [])
            selectors += [peer["podSelector"]["matchLabels"] for peer in peers]
    problems += [f"no pod has the labels {it}" for it in selectors if not it.items() <= labels]
    problems += [f"no port has the name {name}" for name in used if name not in ports]

    secrets = {it["metadata"]["name"]: it["stringData"].keys() for it in of("Secret")}
    volumes = {volume["name"] for volume in template["spec"]["volumes"]}
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    problems += [f"the volume {name} is missing or unused" for name in volumes ^ mounts]
    wanted = [variable.get("valueFrom", {}).get("secretKeyRef") for variable in container["env"]]
    keys = [(it["name"], it["key"]) for it in wanted if it]
    for volume in template["spec"]["volumes"]:
        for item in volume.get("secret", {}).get("items", []):
            keys.append((volume["secret"]["secretName"], item["key"]))
        if "secret" in volume:
            name = volume["secret"]["secretName"]
            keys += [(name, None)] if name not in secrets else []
    for name, key in keys:
        if key not in secrets.get(name, []):
            problems.append(f"{EXAMPLE} has no Secret {name} with {key}")
    return problems


def check_options(documents: list[Document], root: Path) -> list[str]:
    """Checks that the options and variables of the container are those of `isorun serve`."""
    sources = ["serve.rs", "cluster_args.rs"]
    text = "".join((root / COMMANDS / name).read_text("utf-8") for name in sources)
    (daemon_set,) = (document for document in documents if document["kind"] == "DaemonSet")
    (container,) = daemon_set["spec"]["template"]["spec"]["containers"]
    problems = []
    for option in container["args"]:
        field = option.removeprefix("--").split("=")[0].replace("-", "_")
        if not re.search(rf"^    (pub )?{field}: ", text, re.M):
            problems.append(f"`isorun serve` has no option {option}")
    for variable in container["env"]:
        name = variable["name"]
        if name.startswith("ISORUN_") and f'env = "{name}"' not in text:
            problems.append(f"`isorun serve` does not read {name}")
    return problems


def check_kustomization(kustomization: Document, names: set[str], root: Path) -> list[str]:
    problems = []
    listed = set(kustomization["resources"])
    for name in listed ^ (names - {EXAMPLE, KUSTOMIZATION}):
        problems.append(f"{KUSTOMIZATION}: {name} is not listed, or does not exist")
    manifest = (root / "Cargo.toml").read_text("utf-8")
    for image in kustomization["images"]:
        if f'\nversion = "{image["newTag"]}"\n' not in manifest:
            problems.append(f"{KUSTOMIZATION}: {image['newTag']} is not the version of isorun")
    return problems


def main(root: Path) -> int:
    files = sorted((root / DIRECTORY).glob("*.yaml"))
    loaded = {file.name: list(yaml.safe_load_all(file.read_text("utf-8"))) for file in files}
    (kustomization,) = loaded[KUSTOMIZATION]
    documents = [it for name, parts in loaded.items() if name != KUSTOMIZATION for it in parts]
    problems = check_schemas(documents)
    problems += check_references(documents) + check_options(documents, root)
    problems += check_kustomization(kustomization, set(loaded), root)
    for problem in problems:
        print(f"{DIRECTORY}: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
