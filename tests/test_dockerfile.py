"""The Dockerfile is not stale. No engine is needed: what it copies is copied, what it runs is looked at in parts."""

import importlib.metadata
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from helpers.predictions import save_cases, threshold_weights
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from dynunet_bundle.commands.parser import command_parser

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
IMAGE = "dynunet-bundle"
UNPINNED = {"setuptools", "wheel"}
"""torch and DALI's packages ask for them; no code of ours uses them."""


def instructions() -> list[tuple[str, str]]:
    """Keyword and rest of each instruction, in order, without comments and broken lines."""
    lines = [
        line
        for line in (ROOT / "Dockerfile").read_text().splitlines()
        if not line.strip().startswith("#")
    ]
    whole = re.sub(r"\\\n", " ", "\n".join(lines))
    return [
        (keyword, rest.strip())
        for keyword, _, rest in (line.partition(" ") for line in whole.splitlines() if line)
    ]


def rest_of(keyword: str) -> list[str]:
    return [rest for key, rest in instructions() if key == keyword]


def run_commands() -> list[list[str]]:
    return [shlex.split(command) for rest in rest_of("RUN") for command in rest.split("&&")]


def ignore_rules() -> list[tuple[bool, str]]:
    """Whether a rule of .dockerignore excludes, and its pattern as a regular expression."""
    rules = []
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line and not line.startswith("#"):
            pattern = re.escape(line.removeprefix("!"))
            pattern = pattern.replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
            rules.append((not line.startswith("!"), pattern))
    return rules


def is_sent(path: str) -> bool:
    """Whether the engine gets a file: the last rule that fits it, or a folder above it, decides."""
    above = [path, *map(str, Path(path).parents)]
    sent = True
    for excludes, pattern in ignore_rules():
        if any(re.fullmatch(pattern, name) for name in above):
            sent = not excludes
    return sent


class Replay:
    """The folders of an image after some of its steps, below another root; nothing is run."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.workdir = root

    def apply(self, keyword: str, rest: str) -> None:
        if keyword == "WORKDIR":
            self.workdir = self.root / rest.lstrip("/")
            self.workdir.mkdir(parents=True, exist_ok=True)
        elif keyword == "COPY":
            *sources, target = shlex.split(rest)
            for source in sources:
                self._copy(ROOT / source, self.workdir / target, target.endswith("/"))

    def _copy(self, source: Path, target: Path, into: bool) -> None:
        assert source.exists(), f"COPY of {source.name}, which is not there"
        files = [source] if source.is_file() else [p for p in source.rglob("*") if p.is_file()]
        sent = [path for path in files if is_sent(path.relative_to(ROOT).as_posix())]
        assert sent, f".dockerignore keeps all of {source.name} away"
        for path in sent:
            inner = path.relative_to(source) if source.is_dir() else Path(path.name if into else "")
            (target / inner).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / inner)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    replay = Replay(tmp_path_factory.mktemp("image"))
    for keyword, rest in instructions():
        replay.apply(keyword, rest)
    return replay


def pins() -> dict[str, str]:
    """Version of each package of constraints.txt."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    rows = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in rows}


def extras() -> set[str]:
    """What is installed of the package itself: ``.[a,b]`` gives a and b."""
    (words,) = [words for words in run_commands() if "--editable" in words]
    found = re.fullmatch(r"\.\[([\w,]+)\]", words[words.index("--editable") + 1])
    assert found
    return set(found[1].split(","))


def requirements() -> list[Requirement]:
    """What pyproject.toml asks for with those extras."""
    project = PROJECT["project"]
    texts = [*project["dependencies"]]
    for extra in extras():
        texts += project["optional-dependencies"][extra]
    return [Requirement(text) for text in texts]


def test_the_base_image_is_pinned_and_has_the_python_of_the_project():
    (base,) = rest_of("FROM")
    found = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-[a-z]+", base)
    assert found, base
    assert found[1] in SpecifierSet(PROJECT["project"]["requires-python"])
    assert f"py{found[1].replace('.', '')}" == PROJECT["tool"]["ruff"]["target-version"]


def test_packages_are_installed_as_the_makefile_does():
    makefile = (ROOT / "Makefile").read_text()
    own = [words for words in run_commands() if "--editable" in words]
    torch = [words for words in run_commands() if words[-1] == "torch"]
    assert len(run_commands()) == len(own) + len(torch) == 2
    for words in own + torch:
        assert words[:4] == ["python", "-m", "pip", "install"]
        constraint = words[words.index("--constraint") + 1]
        assert (ROOT / constraint).is_file()
        assert f"pip install --quiet --constraint {constraint} torch" in makefile
        # PyPI's torch is the CUDA build; another index would be another build
        assert not any("index" in word or "://" in word for word in words)


def test_pip_knows_the_options():
    from pip._internal.commands import create_command

    for words in run_commands():
        options, arguments = create_command("install").parse_args(words[4:])
        assert options.constraints[-1] == "constraints.txt"
        assert arguments == ["torch"] or options.editables


def test_the_extras_exist_and_are_all_that_a_user_needs():
    assert extras() == set(PROJECT["project"]["optional-dependencies"]) - {"dev"}


def test_every_pin_is_what_the_project_asks_for():
    for requirement in requirements():
        version = pins()[canonicalize_name(requirement.name)]
        assert version in requirement.specifier, requirement


def test_every_package_that_comes_along_is_pinned():
    """Followed from package to package as far as they are installed; a CPU build of torch has no CUDA libraries."""
    waiting, seen = requirements(), set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or name in UNPINNED:
            continue
        seen.add(name)
        assert name in pins(), f"{name} is in no constraint"
        try:
            texts = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that is not installed here
        asked = [Requirement(text) for text in texts]
        for extra in ("", *requirement.extras):
            here = {"extra": extra}
            waiting += [item for item in asked if not item.marker or item.marker.evaluate(here)]
    assert "monai" in seen


def test_the_package_can_be_built_from_what_is_there_when_it_is_installed(tmp_path):
    replay = Replay(tmp_path / "image")
    for keyword, rest in instructions():
        if keyword == "RUN":
            break
        replay.apply(keyword, rest)
    build = "import sys, setuptools.build_meta as b; print(b.build_editable(sys.argv[1]))"
    command = [sys.executable, "-c", build, str(tmp_path)]
    done = subprocess.run(command, cwd=replay.workdir, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "wheel", "zip")
    (link,) = (tmp_path / "wheel").glob("*.pth")
    # it finds the modules that are copied after it
    assert link.read_text().split() == [str(replay.workdir / "bundle")]
    facts = next((tmp_path / "wheel").glob("*.dist-info"))
    provided = re.findall(r"^Provides-Extra: (\S+)", (facts / "METADATA").read_text(), re.MULTILINE)
    assert extras() <= set(provided)
    assert (facts / "licenses" / "LICENSE").is_file()


def test_the_image_starts_in_the_bundle(image):
    assert (image.workdir / "configs" / "inference.json").is_file()
    entry = json.loads(rest_of("ENTRYPOINT")[0])
    assert entry[:2] == ["python", "-m"]
    assert importlib.util.find_spec(f"{entry[2]}.__main__")
    assert importlib.util.find_spec("fire")  # without it that module does not start
    json.loads(rest_of("CMD")[0])


def test_the_whole_bundle_is_in_the_image(image):
    listed = subprocess.run(
        ["git", "ls-files", "bundle", "scripts"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    lacking = [
        name
        for name in listed.stdout.splitlines()
        if (ROOT / name).is_file() and not (image.workdir.parent / name).is_file()
    ]
    assert lacking == []


@pytest.mark.parametrize(
    "path",
    [
        ".env",
        ".git/config",
        ".venv/bin/python",
        "id_rsa",
        "Task04_Hippocampus/imagesTr/hippocampus_001.nii.gz",
        "demo/models/model.pt",
        "dist/a_b_segmentation/models/model.pt",
        "bundle/models/checkpoint_last.pt",
        "bundle/models/fold_0/model.json",
        "bundle/eval/prepared/case.npy",
        "bundle/configs/tasks/splits/Task04_Hippocampus.json",
        "bundle/dynunet_bundle/__pycache__/errors.cpython-311.pyc",
        "bundle/dynunet_bundle.egg-info/PKG-INFO",
    ],
)
def test_data_weights_and_secrets_stay_outside(path):
    assert not is_sent(path)


def test_what_dockerignore_lets_in_exists():
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            assert (ROOT / line[1:]).exists(), line
    assert is_sent("bundle/configs/train.json")


def test_it_runs_as_nobody_in_particular_and_holds_no_secret():
    keywords = [keyword for keyword, _ in instructions()]
    user, group = rest_of("USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0
    # only then can no step write to what the image holds
    assert keywords.index("USER") > max(
        i for i, key in enumerate(keywords) if key in ("RUN", "COPY")
    )
    assert "ADD" not in keywords
    names = " ".join(rest_of("ENV") + rest_of("ARG")).upper()
    assert not re.search(r"PASSW|TOKEN|SECRET|CREDENTIAL|API_?KEY", names)


def examples() -> list[list[str]]:
    """Words of each docker command in the comments."""
    lines = re.findall(r"^#(.*)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    text = re.sub(r"\\\n", " ", "\n".join(line.strip() for line in lines))
    return [shlex.split(line) for line in text.splitlines() if line.startswith("docker ")]


def test_the_commands_of_the_comments_fit_the_image(image):
    checked = []
    for words in examples():
        if words[1] != "run":
            continue
        after = words[words.index(IMAGE) + 1 :]
        configs = [word for word in after if word.endswith(".json") and word.startswith("configs/")]
        ids = {key for name in configs for key in json.loads((image.workdir / name).read_text())}
        given = [word[2:] for word in after if word.startswith("--")]
        if "--entrypoint" not in words and configs:
            assert after[:1] == ["run"]
            assert {after[1], *given} - {"config_file"} <= ids
            assert "readonly" in next(word for word in words if "dst=/data" in word)
            assert {"--gpus", "--shm-size", "--user"} <= set(words)
            checked.append(after[1])
        elif after[0].endswith(".py"):
            script = (image.workdir / after[0]).resolve()
            assert script.is_relative_to(image.root)
            command = script.stem
            parser = command_parser(command, command)
            known = {*parser._option_string_actions, *parser._new_names}
            assert {f"--{option}" for option in given} <= known
            checked.append(command)
    assert checked == ["training", "inference", "plan"]


@pytest.mark.slow
def test_the_copied_bundle_predicts_and_writes_only_where_it_is_told(image, tmp_path):
    save_cases(tmp_path / "data", "case")
    weights = threshold_weights(tmp_path / "model.pt")
    settings = {
        "input": str(tmp_path / "data"),
        "weights_file": str(weights),
        "output_dir": str(tmp_path / "out"),
        "device": "cpu",
        "normalization": "['ct']",
        "intensity_statistics": "[{'lower':-1e9,'upper':1e9,'mean':0.0,'std':1.0}]",
        "network_def": "{'_target_':'torch.nn.Conv3d','in_channels':1,'out_channels':3,'kernel_size':1}",
    }
    entry = json.loads(rest_of("ENTRYPOINT")[0])
    command = [
        sys.executable,
        *entry[1:],
        "run",
        "inference",
        "--config_file",
        "configs/inference.json",
    ]
    for name, value in settings.items():
        command += [f"--{name}", value]
    before = {path: path.stat().st_mtime_ns for path in image.root.rglob("*")}
    done = subprocess.run(
        command,
        cwd=image.workdir,
        env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "case.nii.gz").is_file()
    assert {path: path.stat().st_mtime_ns for path in image.root.rglob("*")} == before
