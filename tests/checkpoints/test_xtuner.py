"""XTuner's checkpoints in all their forms, against the run's own model."""

from __future__ import annotations

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from tests.checkpoints import tiny_xtuner as tiny
from vlforge.checkpoints.checkpoint import Parts, Writing
from vlforge.checkpoints.index import detect, find, read_checkpoint
from vlforge.checkpoints.xtuner import XtunerLayout
from vlforge.checkpoints.xtuner_recipe import parse_recipe
from vlforge.types import ModelError

IDS = [1, 5, -200, 7, 8, 9]
PIXELS = torch.linspace(-1, 1, 3 * 64).reshape(1, 3, 8, 8)


@pytest.fixture(autouse=True)
def _no_libraries():
    yield
    tiny.forget_foreign()


def parts_of(run, **more) -> Parts:
    return Parts(language=run.llm, vision=run.clip, **more)


def agrees(checkpoint, run) -> None:
    """The checkpoint's model says what the run's own, adapters apart, says."""
    with torch.no_grad():
        found = checkpoint.build()(torch.tensor([IDS]), PIXELS).logits[0]
        wanted = run.model(IDS, PIXELS)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("llm", ["lora", "full", "frozen"])
@pytest.mark.parametrize("vision", ["lora", "full", "frozen"])
def test_a_pth_and_its_folder_give_the_runs_model(tmp_path, llm, vision):
    run = tiny.run(tmp_path, llm=llm, vision=vision)
    pth = tiny.write_pth(tmp_path / "iter_7.pth", run)
    folder = tiny.write_hf(tmp_path / "hf", run)
    for path in (pth, folder):
        assert detect(path).name == "xtuner"
        checkpoint = read_checkpoint(path, parts_of(run))
        assert checkpoint.unused == ()
        assert checkpoint.template == "phi3_chat"
        agrees(checkpoint, run)


@pytest.mark.parametrize("depth", [1, 3])
def test_projectors_may_have_another_depth(tmp_path, depth):
    run = tiny.run(tmp_path, llm="frozen", vision="frozen", depth=depth)
    checkpoint = read_checkpoint(tiny.write_pth(tmp_path / "i.pth", run), parts_of(run))
    assert checkpoint.config.connector == f"mlp{depth}x_gelu"
    agrees(checkpoint, run)


@pytest.mark.parametrize(("stage", "ranks"), [(1, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 4)])
def test_zero_shards_are_put_together(tmp_path, stage, ranks):
    run = tiny.run(tmp_path)
    folder = tiny.write_zero(tmp_path / "iter_7.pth", run, stage, ranks)
    tiny.forget_foreign()
    assert detect(folder).name == "xtuner"
    checkpoint = read_checkpoint(folder, parts_of(run))
    checkpoint.check()
    plain = read_checkpoint(tiny.write_pth(tmp_path / "one.pth", run), parts_of(run))
    for name, lazy in plain.weights.items():
        assert torch.equal(checkpoint.weights[name].read(), lazy.read()), name


def test_a_missing_rank_is_named(tmp_path):
    run = tiny.run(tmp_path)
    folder = tiny.write_zero(tmp_path / "iter_7.pth", run, 2, 3)
    (folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    with pytest.raises(ModelError, match="written by 3 ranks and holds the files of 2"):
        read_checkpoint(folder, parts_of(run))


def test_a_rank_that_ends_early_is_named(tmp_path):
    run = tiny.run(tmp_path)
    folder = tiny.write_zero(tmp_path / "iter_7.pth", run, 3, 2)
    for file in folder.glob("*optim_states.pt"):
        state = tiny.torch.load(file, weights_only=False)
        flat = state["optimizer_state_dict"]["fp32_flat_groups"]
        state["optimizer_state_dict"]["fp32_flat_groups"] = [flat[0], flat[1][:5]]
        torch.save(state, file)
    with pytest.raises(ModelError, match="the ranks' files end within"):
        read_checkpoint(folder, parts_of(run))


def test_a_trainers_own_objects_are_let_lie(tmp_path):
    run = tiny.run(tmp_path)
    history = tiny.foreign("mmengine.logging.history_buffer", "HistoryBuffer")
    pth = tiny.write_pth(tmp_path / "iter_7.pth", run, message_hub={"loss": history})
    tiny.forget_foreign()
    with pytest.raises(Exception, match="Weights only"):
        torch.load(pth, weights_only=True)
    assert detect(pth).name == "xtuner"
    agrees(read_checkpoint(pth, parts_of(run)), run)


class Evil:
    """What runs a command where a pickle is read without care."""

    def __init__(self, function, argument):
        self.call = (function, (argument,))

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.system, eval, exec, os.mkdir])
def test_a_pickle_that_asks_for_code_is_refused(tmp_path, function):
    run = tiny.run(tmp_path)
    mark = tmp_path / "ran"
    shell = {os.system: f"touch {mark}", os.mkdir: str(mark)}
    argument = shell.get(function, f"open({str(mark)!r}, 'w')")
    pth = tiny.write_pth(tmp_path / "iter_7.pth", run, message_hub=Evil(function, argument))
    with pytest.raises(ModelError, match="nothing of it was run") as error:
        read_checkpoint(pth, parts_of(run), layout="xtuner")
    assert "\n" not in str(error.value)
    with pytest.raises(ModelError, match="asks for"):
        read_checkpoint(pth, parts_of(run))
    assert not mark.exists()


def test_the_configuration_is_never_run(tmp_path):
    mark = tmp_path / "ran"
    recipe = tiny.RECIPE + f"\nopen({str(mark)!r}, 'w')\nevil = dict(a=__import__('os').getcwd())\n"
    run = tiny.run(tmp_path)
    pth = tiny.write_pth(tmp_path / "iter_7.pth", run, recipe=None)
    (tmp_path / "finetune.py").write_text(recipe)
    agrees(read_checkpoint(pth, parts_of(run)), run)
    assert not mark.exists()


def test_a_configuration_says_what_it_says():
    recipe = parse_recipe(tiny.RECIPE)
    assert recipe.llm == "lmsys/vicuna-7b-v1.5"
    assert recipe.vision == "openai/clip-tiny"
    assert recipe.llm_lora["lora_alpha"] == 6
    assert recipe.vision_lora["r"] == 2
    assert recipe.template == "phi3_chat"
    assert recipe.pads is True
    dumped = "prompt_template = 'xtuner.utils.PROMPT_TEMPLATE.default'\nmodel = {'llm': {}}"
    assert parse_recipe(dumped).template == "xtuner_default"


@pytest.mark.parametrize("where", ["config", "beside", "folder", "converted"])
def test_alpha_is_found_where_the_user_or_the_run_left_it(tmp_path, where):
    run = tiny.run(tmp_path)
    pth = tiny.write_pth(tmp_path / "iter_7.pth", run, recipe=None)
    given = {}
    if where == "config":
        given["config"] = tmp_path / "elsewhere.txt"
        given["config"].write_text(tiny.RECIPE)
    elif where == "beside":
        (tmp_path / "finetune.py").write_text(tiny.RECIPE)
    else:
        hf = tiny.write_hf(tmp_path / "deep" / "hf", run)
        (hf / "xtuner_config.py").unlink()
        given = {"config": hf} if where == "folder" else {}
        if where == "converted":
            hf.rename(tmp_path / "iter_7_hf")
    agrees(read_checkpoint(pth, parts_of(run, **given)), run)


def refusal(path, parts):
    with pytest.raises(ModelError) as error:
        read_checkpoint(path, parts).check()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_a_checkpoint_leaves_open_is_asked_for(tmp_path):
    run = tiny.run(tmp_path)
    pth = tiny.write_pth(tmp_path / "iter_7.pth", run, recipe=None)
    assert "does not say lora_alpha" in refusal(pth, parts_of(run))
    told = tiny.write_pth(tmp_path / "told.pth", run)
    assert "lmsys/vicuna-7b-v1.5" in refusal(told, Parts(vision=run.clip))
    assert "name its folder with --vision" in refusal(told, Parts(language=run.llm))


def test_a_configuration_of_another_run_is_seen(tmp_path):
    run = tiny.run(tmp_path)
    other = tiny.RECIPE.replace("r=3", "r=64")
    pth = tiny.write_pth(tmp_path / "iter_7.pth", run, recipe=other)
    assert "rank 3, and the configuration says 64" in refusal(pth, parts_of(run))


def test_another_base_is_refused(tmp_path):
    run = tiny.run(tmp_path)
    pth = tiny.write_pth(tmp_path / "iter_7.pth", run)
    wide = tiny.LlamaForCausalLM(
        tiny.LANGUAGES["llama"]().__class__(**(tiny.SIZES | {"intermediate_size": 32}))
    )
    wide.save_pretrained(tmp_path / "wide")
    assert "another base" in refusal(pth, Parts(language=tmp_path / "wide", vision=run.clip))


HALVES = [("lora", "lora"), ("full", "full"), ("frozen", "frozen"), ("lora", "frozen")]


@pytest.mark.parametrize(("llm", "vision"), HALVES)
def test_a_run_is_written_as_it_was_trained(tmp_path, llm, vision):
    run = tiny.run(tmp_path, llm=llm, vision=vision)
    source = read_checkpoint(tiny.write_pth(tmp_path / "iter_7.pth", run), parts_of(run))
    wanted, out = tiny.write_hf(tmp_path / "hf", run), tmp_path / "out"
    out.mkdir()
    said = []
    XtunerLayout().write(source, out, Writing(say=said.append))
    names = {str(file.relative_to(wanted)) for file in wanted.rglob("*.safetensors")}
    assert {str(file.relative_to(out)) for file in out.rglob("*.safetensors")} == names
    for name in names:
        found, given = load_file(out / name), load_file(wanted / name)
        assert set(found) == set(given)
        assert all(torch.equal(found[key], tensor) for key, tensor in given.items())
    assert (out / "xtuner_config.py").read_text() == tiny.RECIPE
    assert len(said) == (llm == "frozen") + (vision == "frozen")
    again = read_checkpoint(out, parts_of(run))
    assert all(
        torch.equal(again.weights[name].read(), lazy.read())
        for name, lazy in source.weights.items()
    )


def test_a_model_of_ours_is_written_whole_and_read_without_parts(tmp_path):
    from tests.checkpoints import tiny_llava

    source = tiny_llava.checkpoint(tmp_path / "ours", tiny_llava.model(image_aspect_ratio="pad"))
    (tmp_path / "out").mkdir()
    XtunerLayout().write(source, tmp_path / "out", Writing())
    fields = json.loads((tmp_path / "out" / "projector" / "config.json").read_text())
    assert fields["depth"] == 2
    found = read_checkpoint(tmp_path / "out")
    assert found.layout == "xtuner"
    assert found.template == source.template
    tiny_llava.same_weights(found, source)


def test_what_xtuner_cannot_hold_is_refused(tmp_path):
    from tests.checkpoints import tiny_llava

    tiled = tiny_llava.model(image_aspect_ratio="anyres")
    source = tiny_llava.checkpoint(tmp_path / "ours", tiled)
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="takes one tile a picture"):
        XtunerLayout().write(source, tmp_path / "out", Writing())


@pytest.mark.parametrize("layout", ["llava", "llava_hf", "vlforge"])
def test_a_run_is_exported_with_equal_logits(tmp_path, layout):
    run = tiny.run(tmp_path)
    source = read_checkpoint(tiny.write_pth(tmp_path / "iter_7.pth", run), parts_of(run))
    out = tmp_path / layout
    out.mkdir()
    find(layout).write(source, out, Writing())
    found = read_checkpoint(out)
    assert found.layout == layout
    with torch.no_grad():
        logits = found.build()(torch.tensor([IDS]), PIXELS).logits[0]
        wanted = run.model(IDS, PIXELS)
    torch.testing.assert_close(logits[:, : wanted.shape[1]], wanted, atol=1e-5, rtol=1e-5)


def test_an_adapter_of_the_language_model_may_become_llavas(tmp_path):
    run = tiny.run(tmp_path, vision="frozen")
    source = read_checkpoint(tiny.write_pth(tmp_path / "iter_7.pth", run), parts_of(run))
    out = tmp_path / "out"
    out.mkdir()
    find("llava_lora").write(source, out, Writing())
    found = read_checkpoint(out, Parts(base=run.llm, vision=run.clip))
    agrees(found, run)
