"""Engines of a tiny model: built, cached, loaded in a process of their own; torn and foreign ones are refused."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from shared import paths
from shared.course.prefill import prefill_report
from shared.course.prefill.ahead_of_time import build, loaded, making, parts
from shared.course.prefill.ahead_of_time.build import Engine, Recipe
from shared.course.prefill.ahead_of_time.loaded import InTorch
from shared.course.prefill.ahead_of_time.prefill_model import PrefillModel
from shared.errors import LabError
from shared.models.llama import Llama
from tests.helpers.tiny_llama import CONFIGS, tiny

PROMPTS = [torch.randint(3, 300, (length,)).tolist() for length in (2, 3, 9, 64, 100, 256)]
RECIPES = [
    Recipe("openvino", "float32"),
    Recipe("openvino", "int8"),
    Recipe("openvino", "float32", 64),
    Recipe("aoti", "float32"),
]

USAGE_DATA = Path("~/intel")  # an id of the user and a count, as soon as OpenVINO or NNCF may send usage data


@pytest.fixture(scope="module")
def llama() -> Llama:
    return tiny(CONFIGS["llama"])[0]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all of pytest's workers, so that each engine is built once."""
    folder = tmp_path_factory.getbasetemp()
    common = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    (common / "engines").mkdir(exist_ok=True)
    return common / "engines"


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_CACHE", str(cache))
    monkeypatch.setenv("HOME", str(cache))


def made(recipe: Recipe, llama: Llama) -> Engine:
    prefill = PrefillModel(llama, mask_once=recipe.compiler == "openvino")
    return making.make(recipe, prefill, "0" * 64, 1, PROMPTS)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_module_computes_what_the_reference_computes(name: str) -> None:
    llama = tiny(CONFIGS[name])[0]
    for run in (InTorch(PrefillModel(llama), 1), InTorch(PrefillModel(llama, mask_once=True), 1)):
        for ids in PROMPTS:
            wanted = llama.forward(torch.tensor([ids]), llama.new_cache(1, len(ids)))[0].numpy()
            assert np.abs(run(ids) - wanted).max() < 1e-4


def test_all_layers_share_what_torch_compiles_for_one(llama: Llama) -> None:
    torch._dynamo.reset()
    compiled, eager = (InTorch(PrefillModel(llama), 1, compiled=yes) for yes in (True, False))
    for ids in PROMPTS:
        assert np.abs(compiled(ids) - eager(ids)).max() < 1e-4
    assert llama.layers > 1
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_an_engine_computes_what_torch_computes_without_the_models_code(recipe: Recipe, llama: Llama) -> None:
    engine = made(recipe, llama)
    prompts = [ids for ids in PROMPTS if len(ids) <= (recipe.length or 256)]
    reference = InTorch(PrefillModel(llama), 1)
    with loaded.load(engine, 1) as run:
        found = making.agreement(run, prompts, [reference(ids) for ids in prompts])
        assert run.model_code == []
        assert run.load_s > 0
        assert len(run.time_s(PROMPTS[0], repeats=3)) == 3
    assert not USAGE_DATA.expanduser().exists()
    if recipe.precision == "int8":
        assert 1e-4 < found.max_difference < 1.0
    else:
        assert found.max_difference < 1e-3
        assert found.same_token == found.right_token == len(prompts)
        assert found.worst_gap_nats == found.mean_gap_nats == 0


def test_a_near_tie_is_right_and_another_token_is_not() -> None:
    ours = {2: [0.0, 1.0, 3.0, 0.0], 3: [0.0, 9.0, 0.0, 0.0], 4: [0.0, 0.0, 0.0, 5.0]}
    expected = [np.array([0.0, 1.0, 3.0, 0.0]), np.array([0.0, 3.0, 3.2, 0.0]), np.array([0.0, 0.0, 3.0, 1.0])]
    found = making.agreement(lambda ids: np.array(ours[len(ids)]), [[1] * n for n in ours], expected)  # type: ignore[arg-type]
    assert (found.prompts, found.same_token, found.right_token) == (3, 1, 2)
    assert (found.worst_gap_nats, found.max_difference) == (2.0, 6.0)
    assert found.mean_gap_nats == pytest.approx(2.2 / 3)


@pytest.mark.parametrize("recipe", [RECIPES[0], RECIPES[3]], ids=str)
def test_an_optimizer_leaves_fewer_kernels_than_the_graph_has_operators(recipe: Recipe, llama: Llama) -> None:
    fusion = made(recipe, llama).fusion
    assert sum(fusion["after"].values()) < sum(fusion["before"].values())
    if recipe.compiler == "aoti":
        assert fusion["after"]["aoti_torch_cpu_mm_out"] >= 8  # matrix products stay calls of torch's library
        assert any(name.startswith("cpp_fused_") for name in fusion["after"])
        assert fusion["before"]["rms_norm"] == 5
        assert fusion["attention"] == {"aoti_torch_cpu__scaled_dot_product_flash_attention_for_cpu": 2}
    else:
        assert fusion["after"]["FullyConnected"] >= 8
        assert fusion["after"]["RMS"] == 5
        assert sum(fusion["attention"].values()) >= 2  # one kernel for each, or several: that depends on the processor


def test_both_profilers_see_products_attention_and_the_rest(llama: Llama) -> None:
    with loaded.load(made(RECIPES[0], llama), 1, profile=True) as run:
        engine = parts.of_openvino(run, PROMPTS[-1])
    eager = parts.of_eager(InTorch(PrefillModel(llama), 1), PROMPTS[-1])
    for found in (engine, eager):
        assert set(found) == {parts.PRODUCTS, parts.ATTENTION, parts.REST}
        assert min(found.values()) > 0


def test_openvinos_running_mean_is_undone() -> None:
    took_s, seen = [9.0, *[2.0] * parts.REPEATS], []

    class Profiled:
        def nodes_s(self, ids: object) -> list[tuple[str, str, float]]:
            seen.append(took_s[len(seen)])
            return [("a", "FullyConnected", sum(seen) / len(seen))]

    found = parts.of_openvino(Profiled(), PROMPTS[0])  # type: ignore[arg-type]
    assert found[parts.PRODUCTS] == pytest.approx(2000)


def test_a_built_engine_is_taken_from_the_cache(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = made(RECIPES[0], llama)
    monkeypatch.setattr(build, "Stage", None)  # nothing is built
    before = (engine.folder / build.MANIFEST).stat().st_mtime_ns
    again = made(RECIPES[0], llama)
    assert (again.folder, (again.folder / build.MANIFEST).stat().st_mtime_ns) == (engine.folder, before)
    assert engine in build.engines()
    assert set(engine.build_s) == {"convert", "compile"}
    assert {file.name for file in engine.folder.iterdir()} == {"engine.blob", build.FUSION, build.MANIFEST}


def test_whatever_decides_an_engine_changes_its_name() -> None:
    one = build.ingredients(RECIPES[0], "0" * 64)
    others = [
        build.ingredients(RECIPES[1], "0" * 64),
        build.ingredients(RECIPES[2], "0" * 64),
        build.ingredients(RECIPES[0], "1" * 64),
        one | {"versions": {"openvino": "2020.1"}},
        one | {"instructions": "00000000"},
    ]
    names = {build.place(RECIPES[0], made_of).name for made_of in (one, *others)}
    assert len(names) == 6


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupted(llama: Llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, list[str]]:
    """A build in a cache of its own that was killed in its second stage: (its folder, the stages that ran)."""
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    ran: list[str] = []

    def stage(name: str, fails: bool = False) -> build.Stage:
        def run(folder: Path) -> None:
            ran.append(name)
            (folder / name).write_text("half" if fails else f"content of {name}")
            if fails:
                raise Interrupted

        return build.Stage(name, (name,), run, kept=name == "second")

    with pytest.raises(Interrupted):
        build.run_stages(RECIPES[0], {}, (stage("first"), stage("second", fails=True)))
    monkeypatch.setattr(build, "_stages_of_test", (stage("first"), stage("second")), raising=False)
    [folder] = [one for one in build.folder().iterdir() if one.is_dir()]
    return folder, ran


def resume() -> Engine:
    return build.run_stages(RECIPES[0], {}, build._stages_of_test)  # type: ignore[attr-defined]


def test_an_interrupted_build_is_never_an_engine_and_goes_on_after_its_last_stage(
    interrupted: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, ran = interrupted
    assert build.engines() == []
    with pytest.raises(LabError, match="holds no finished engine"):
        loaded.load(Engine(folder), 1)
    engine = resume()
    assert ran == ["first", "second", "second"]
    assert "first was finished by an earlier build" in capsys.readouterr().out
    assert (engine.folder / "second").read_text() == "content of second"
    assert not (engine.folder / "first").exists()
    assert not folder.exists()


def test_a_damaged_stage_is_made_again(interrupted: tuple[Path, list[str]]) -> None:
    folder, ran = interrupted
    (folder / "first").write_text("content of FIRST")
    resume()
    assert ran == ["first", "second", "first", "second"]


def test_a_torn_note_discards_the_build(interrupted: tuple[Path, list[str]]) -> None:
    folder, ran = interrupted
    (folder / "stages.json").write_text('{"first": {"sec')
    resume()
    assert ran == ["first", "second", "first", "second"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("Exception from src/core: std::bad_alloc"),
        RuntimeError("C++ compile error: c++: fatal error: Killed signal terminated program cc1plus"),
    ],
    ids=["python", "torch", "openvino", "compiler"],
)
def test_a_build_without_memory_fails_clearly_and_leaves_no_engine(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))

    def fail(folder: Path) -> None:
        raise error

    with pytest.raises(LabError, match=r"Memory ran out \(openvino-.*, stage compile\)") as raised:
        build.run_stages(RECIPES[0], {}, (build.Stage("compile", ("x",), fail),))
    assert "make down" in str(raised.value)
    assert build.engines() == []


def test_another_error_of_a_compiler_is_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="no such operator"), build.memory_may_run_out("here"):
        raise RuntimeError("no such operator")


def test_a_build_that_memory_can_not_hold_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABS_CACHE", str(tmp_path))
    with pytest.raises(LabError, match=r"takes about 100000.0 GiB of memory, but .* are available"):
        build.run_stages(RECIPES[0], {}, (), needed_gib=100_000)


def test_neither_openvino_nor_nncf_collects_usage_data(tmp_path: Path) -> None:
    code = (
        "from shared.course.prefill.ahead_of_time.openvino_compiler import switch_telemetry_off\n"
        "switch_telemetry_off()\nimport nncf, openvino, sys\nprint(sys.modules['openvino_telemetry'])"
    )
    env = {**os.environ, "HOME": str(tmp_path)}  # NNCF sends nothing below pytest anyway, so a process of its own
    assert subprocess.check_output([sys.executable, "-c", code], env=env, cwd=paths.REPO, text=True).endswith("None\n")
    assert not (tmp_path / USAGE_DATA.name).exists()


@pytest.fixture
def copy(llama: Llama, tmp_path: Path) -> Engine:
    shutil.copytree(made(RECIPES[0], llama).folder, tmp_path / "openvino-copy")
    return Engine(tmp_path / "openvino-copy")


def test_a_damaged_engine_is_refused(copy: Engine) -> None:
    blob = copy.folder / "engine.blob"
    blob.write_bytes(blob.read_bytes()[:-7])
    with pytest.raises(LabError, match=r"engine.blob is damaged or missing"):
        loaded.load(copy, 1)


@pytest.mark.parametrize(
    ("what", "value", "found"),
    [
        ("instructions", "00000000", "instructions 00000000"),
        ("hardware", "Cortex-X925", "hardware Cortex-X925"),
        ("versions", {"openvino": "2020.1", "nncf": "1.0"}, r"2020\.1"),
    ],
)
def test_an_engine_of_another_machine_or_version_is_refused(copy: Engine, what: str, value: object, found: str) -> None:
    manifest = copy.manifest
    manifest["made_of"][what] = value
    (copy.folder / build.MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(LabError, match=f"built for another machine or version: .*{found}"):
        loaded.load(Engine(copy.folder), 1)


def test_the_loaders_own_error_is_explained(copy: Engine) -> None:
    blob = copy.folder / "engine.blob"
    blob.write_bytes(b"x" * 1000)
    with pytest.raises(LabError, match=r"damaged, or another version .* The loader's error: "):
        loaded.load(copy, 1, anyway=True)


def test_a_loader_is_asked_for_its_own_words(copy: Engine) -> None:
    assert prefill_report.loaders_words(copy) == ""
    blob = copy.folder / "engine.blob"
    beginning = blob.read_bytes()[:256]
    other = beginning.replace(b"ov=2026", b"ov=2020")
    assert other != beginning
    blob.write_bytes(other + blob.read_bytes()[256:])
    words = prefill_report.loaders_words(copy)
    assert "it was built for a different runtime configuration (OpenVINO version/isa mismatch)" in words
    assert "Exception from" not in words
    assert "failed at" not in words


def test_an_engine_whose_process_ended_is_reported(llama: Llama) -> None:
    with loaded.load(made(RECIPES[0], llama), 1) as run:
        run._process.kill()
        run._process.wait()
        with pytest.raises(LabError, match="exit code -9"):
            run(PROMPTS[1])


@pytest.mark.parametrize(("ids", "found"), [([1], "too short"), ([1] * 65, "doesn't fit an engine for 64")])
def test_a_prompt_that_does_not_fit_is_refused(ids: list[int], found: str) -> None:
    with pytest.raises(LabError, match=found):
        loaded.padded(ids, 64)


@pytest.mark.parametrize(
    "wrong",
    [
        ("tensorrt",),
        ("openvino", "fp4"),
        ("aoti", "int8"),
        ("aoti", "float32", 1),
        ("aoti", "float32", 9999),
        ("aoti", "float32", 64.0),
        ("aoti", "float32", "64"),
    ],
)
def test_a_recipe_that_can_not_be_built_is_refused(wrong: tuple[str, ...]) -> None:
    with pytest.raises(LabError):
        Recipe(*wrong)  # type: ignore[arg-type]


def test_a_length_that_numpy_computed_is_a_whole_number_like_any_other() -> None:
    numpys = Recipe("openvino", "float32", np.int64(64))  # type: ignore[arg-type]
    assert numpys == RECIPES[2]
    assert build.place(numpys, build.ingredients(numpys, "0" * 64)).name.startswith("openvino-float32-64-")


def test_the_process_of_an_engine_for_a_gpu_starts_with_the_compilers_own_cpp_library() -> None:
    library = Path(loaded.preloaded("cuda")["LD_PRELOAD"])
    assert library.is_file()
    code = "import torch; print([l for l in open('/proc/self/maps') if 'libstdc++' in l][0].split()[-1])"
    env = {**os.environ, **loaded.preloaded("cuda")}
    found = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()).samefile(library)
    assert loaded.preloaded("cpu") == {}


def test_an_engine_can_be_removed(copy: Engine) -> None:
    copy.remove()
    assert not copy.folder.exists()
