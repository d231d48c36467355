"""The documentation: its code runs, its commands exist, its links lead somewhere, and it misses no public name."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import click
import pytest

import fpes
from fpes import _config
from fpes.cli.commands import cli

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
# What would take minutes is made shorter, and nothing else about a block is changed.
MANY_STEPS = re.compile(r"(?<=steps=)\d{3,}|(?<=range\()\d{3,}")
NEEDS_A_GPU = re.compile(r"\b(cupy|cuda)\b")


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.M | re.S)


def commands():
    """(page, words) of every fpes command line in the pages, up to a comment."""
    for path in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for block in blocks(path, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words[:1] == ["fpes"]:
                    yield path.name, words[1:]


def runnable(path):
    """The Python of a page that needs no GPU."""
    return [block for block in blocks(path, "python") if not NEEDS_A_GPU.search(block)]


@pytest.mark.parametrize("path", [p for p in [*PAGES, ROOT / "README.md"] if runnable(p)], ids=lambda path: path.name)
@pytest.mark.filterwarnings("ignore::fpes.TrainingWarning")  # the shorter runs lead nowhere
def test_python_of_a_page_runs(path, tmp_path, monkeypatch):
    """Blocks of a page follow on each other; x and y are a batch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_config, "_classes", dict(_config._classes))  # the page's own aren't for other tests
    data = fpes.datasets.load("digits")
    names = {"__name__": "__main__", "x": data.x_train[:64], "y": data.y_train[:64]}
    for number, block in enumerate(runnable(path)):
        exec(compile(MANY_STEPS.sub("3", block), f"{path.name}, block {number}", "exec"), names)


def test_commands_and_their_options_exist():
    seen = set()
    for page, words in commands():
        name, *rest = [word for word in words if word != "..."]
        command = cli.commands.get(name)
        assert isinstance(command, click.Command), f"{page}: fpes {name}"
        options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for word in rest:
            assert not word.startswith("--") or word in options, f"{page}: fpes {name} {word}"
        seen.add(name)
    assert {"train", "compare", "compare-builds", "export"} <= seen


@pytest.mark.parametrize("path", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name)
def test_scripts_that_a_page_names_are_there(path):
    for script in re.findall(r"python (examples/\w+\.py)", path.read_text()):
        assert (ROOT / script).exists(), script


def test_the_reference_has_every_public_name():
    text = (DOCS / "api.md").read_text()
    documented = set(re.findall(r"^::: fpes\.(\w+)$", text, re.M))
    assert documented == set(fpes.__all__) - {"__version__"} | {"export"}
    for module in (fpes.datasets, fpes.distributed, fpes.training, importlib.import_module("fpes.export")):
        assert [name for name in module.__all__ if f"- {name}\n" not in text + "\n"] == []


def test_the_citation_has_this_version():
    assert f"\nversion: {fpes.__version__}\n" in (ROOT / "CITATION.cff").read_text()


class Page(HTMLParser):
    """What a page links to and shows, and the places in it that can be linked to."""

    def __init__(self, path):
        super().__init__()
        self.links, self.places = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places.update(found[name] for name in ("id", "name") if found.get(name))
        self.links += [found[name] for name in ("href", "src", "srcset") if found.get(name)]


def build_site(folder, *options):
    """The site by the command of `make docs`, from the root of the project."""
    if importlib.util.find_spec("mkdocs") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("NOT BUILT: mkdocs is not installed (pip install mkdocs-material 'mkdocstrings[python]')")
    (command,) = re.findall(r"-m (mkdocs build.*)$", (ROOT / "Makefile").read_text(), re.M)
    return subprocess.run(
        [sys.executable, "-m", *shlex.split(command), "--site-dir", str(folder), *options],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    built = build_site(folder)
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("[a page](nowhere.md)", "nowhere.md"),
        ("[a name][fpes.nothing]", "fpes.nothing"),
        ("::: module.two", "Parameter 'a, b' does not appear"),
    ],
    ids=["link", "cross-reference", "docstring"],
)
def test_a_warning_fails_the_build_of_the_site(tmp_path, text, warning):
    """With the project's configuration and one page that is wrong."""
    pages = tmp_path / "pages"
    pages.mkdir()
    (pages / "index.md").write_text(f"# A page\n\n{text}\n")
    (tmp_path / "module.py").write_text('def two(a, b):\n    """Do it.\n\n    Args:\n        a, b: numbers.\n    """\n')
    handler = "plugins: {mkdocstrings: {handlers: {python: {paths: [.]}}}}"
    config = f"INHERIT: {ROOT / 'mkdocs.yml'}\ndocs_dir: pages\nnav: [index.md]\n{handler}\n"
    (tmp_path / "mkdocs.yml").write_text(config)
    built = build_site(tmp_path / "site", "--config-file", str(tmp_path / "mkdocs.yml"))
    assert built.returncode == 1, built.stderr
    assert warning in built.stderr


def test_docstrings_have_no_roles_of_sphinx():
    """The site and help() would show them as they are written."""
    files = sorted((ROOT / "fpes").rglob("*.py"))
    assert len(files) > 50
    found = [(path.name, role) for path in files for role in re.findall(r":\w+:`.*?`", path.read_text())]
    assert found == []


def test_every_link_leads_somewhere(site):
    pages = {path: Page(path) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}
    assert len(pages) >= len(PAGES)
    broken = []
    for path, page in pages.items():
        for link in page.links:
            target, _, place = link.partition("#")
            if re.match(r"[a-z]+:", target):
                continue
            file = (path.parent / target.partition("?")[0]).resolve() if target else path
            if file.is_dir():
                file /= "index.html"
            if not file.exists() or (place and file in pages and place not in pages[file].places):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_pages_fetch_nothing_from_elsewhere(site):
    """Links may lead away; fonts, scripts, styles and pictures don't."""
    for path in site.glob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|source|link)[^>]*?(?:src|srcset|href)="(https?://[^"]+)"', path.read_text()
        )
        assert fetched == [], path.name


def test_the_reference_has_docstrings(site):
    text = (site / "api.html").read_text()
    for words in ("antithetic pair", "NaN or infinity in theta", "Doubled, centred ranks"):
        assert words in text


def test_figures_of_the_cost_of_flushing_are_those_of_the_stored_report():
    stored = json.loads((ROOT / "benchmarks" / "results" / "2026-11-26-compare-builds-zen4.json").read_text())
    (cost,) = stored["cost"]
    text = (DOCS / "compare-builds.md").read_text()
    kernels = {kernel["kernel"]: kernel for kernel in cost["kernels"]}
    plain = [kernels[name]["to_normal"]["never"]["median"] for name in ("NumPy multiply", "NumPy add", "multiply",
                                                                        "bias_add", "gemm")]  # fmt: skip
    assert f"they take {min(plain):.2f} to {max(plain):.2f} times as long as normal ones" in text
    normal = [
        ratio["median"]
        for kernel in kernels.values()
        for words, ratio in kernel["to_never"].items()
        if words.startswith("normal")
    ]
    assert f"{min(normal):.2f} to {max(normal):.2f} times the time of `never` on normal numbers" in text
    node = kernels["node"]["to_never"]["subnormal, boundary"]["median"]
    assert f"takes {node:.2f} times the time of `never`" in " ".join(text.split())
    always = [
        kernels[name]["to_never"]["subnormal, always"]["median"]
        for name in ("full rank", "low rank 1", "low rank 4", "node")
    ]
    assert f"{min(always):.2f} to {max(always):.2f} times" in text
