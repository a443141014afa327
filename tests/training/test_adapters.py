"""Stages with LoRA: what learns, what is written, what comes of it merged."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import CLIPVisionConfig, CLIPVisionModel

from tests.small_stage import stopped_before
from tests.tiny_model import CLIP, write_data, write_parts
from vlforge.checkpoints.index import detect, read_checkpoint
from vlforge.checkpoints.merge import merge
from vlforge.inference.load import load_model
from vlforge.models.config import ModelSpec
from vlforge.models.folder import read_folder
from vlforge.runs.job import Job
from vlforge.runs.kinds import merge as merge_kind
from vlforge.training.adapters import attach, lighten
from vlforge.training.config import LoraSpec, MergeConfig, Optimiser, TrainConfig
from vlforge.training.loop import choose, train
from vlforge.types import ModelError, RecipeError

LORA = LoraSpec(rank=4, alpha=8, dropout=0.1)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A whole model with a CLIP tower, and a stage that adapts its language model."""
    folder = tmp_path_factory.mktemp("made")
    data = write_data(folder)
    _, language = write_parts(folder, data)
    torch.manual_seed(1)
    CLIPVisionModel(CLIPVisionConfig(**CLIP)).save_pretrained(folder / "clip")
    spec = ModelSpec(vision=str(folder / "clip"), language=str(language))
    config = TrainConfig(
        model=spec,
        data=str(data),
        samples=24,
        batch=4,
        template="vicuna",
        optimiser=Optimiser(lr=1e-2),
    )
    train(config, folder / "align", device="cpu")
    return replace(config, model=str(folder / "align"), lora=LORA)


@torch.no_grad()
def logits(model) -> torch.Tensor:
    """What a model says of one picture and a few words."""
    torch.manual_seed(5)
    ids, pixels = torch.tensor([[1, -200, 5, 6, 7, 3]]), torch.randn(1, 3, 8, 8)
    return model.eval()(ids, pixels).logits


def names_in(folder: Path) -> set[str]:
    return set(load_file(folder / "adapter_model.safetensors"))


def with_adapters(config: TrainConfig):
    """The base with adapters that do something, and what learns of it."""
    model = read_folder(Path(config.model)).model
    adapters = attach(model, config, seed=3)
    return model, adapters, choose(config, model, adapters)


def test_a_stage_writes_adapters_and_not_the_base(tmp_path, made):
    summary = train(replace(made, samples=48), tmp_path, device="cpu")
    steps = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert not (tmp_path / "model.safetensors").exists()
    assert summary["adapters"]["language"]["layers"] == 14
    whole = load_file(tmp_path / "non_lora_trainables.safetensors")
    assert {name.partition(".")[0] for name in whole} == {"connector"}
    before = load_file(Path(made.model) / "model.safetensors")
    assert all(not torch.equal(whole[name], before[name]) for name in whole)
    changed = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert all(tensor.abs().sum() > 0 for tensor in changed.values())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rslora": True},
        {"dora": True},
        {"modules_to_save": ("lm_head", "embed_tokens")},
        {"targets": ("embed_tokens", r"language\..*\.(q|v)_proj")},
    ],
    ids=["lora", "rslora", "dora", "whole modules", "embedding"],
)
def test_merged_logits_equal_unmerged(tmp_path, made, settings, monkeypatch):
    kept = {}

    def attached(model, config, seed):
        kept["model"] = model
        return attach(model, config, seed)

    monkeypatch.setattr("vlforge.training.loop.attach", attached)
    train(replace(made, lora=replace(LORA, **settings)), tmp_path / "lora", device="cpu")
    unmerged = logits(kept["model"])
    merge(None, tmp_path / "lora", tmp_path / "merged")
    whole = read_folder(tmp_path / "merged")
    assert (whole.template, len(whole.history)) == ("vicuna", 2)
    torch.testing.assert_close(logits(whole.model), unmerged, atol=1e-5, rtol=0)
    opened = load_model(tmp_path / "lora", device="cpu")
    torch.testing.assert_close(logits(opened.model), unmerged, atol=1e-5, rtol=0)
    assert opened.template.name == "vicuna"
    apart = logits(read_folder(Path(made.model)).model)
    assert (apart - unmerged).abs().max() > 1e-3
    monkeypatch.undo()
    language = read_folder(Path(made.model)).model.language
    told = PeftModel.from_pretrained(language, tmp_path / "lora" / "adapter")
    state = dict(told.named_parameters())
    for name, tensor in kept["model"].language.named_parameters():
        if ".lora_" in name:
            assert torch.equal(state[f"base_model.model.{name}"], tensor)


def test_vision_and_language_have_adapters_of_their_own(tmp_path, made):
    vision = LoraSpec(rank=2, alpha=2, dropout=0.0, targets="clip")
    config = replace(made, vision_lora=vision, train=("connector",))
    train(config, tmp_path / "both", device="cpu")
    found = load_file(tmp_path / "both/vision_adapter/adapter_model.safetensors")
    leaves = {name.split(".lora_")[0].rpartition(".")[2] for name in found}
    assert leaves == {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}
    assert {t.shape[0] for n, t in found.items() if "lora_A" in n} == {2}
    fields = json.loads((tmp_path / "both/vision_adapter/adapter_config.json").read_text())
    assert (fields["r"], fields["target_modules"]) == (2, sorted(leaves))
    language = load_file(tmp_path / "both/adapter/adapter_model.safetensors")
    assert {t.shape[0] for n, t in language.items() if "lora_A" in n} == {4}
    assert not any("vision" in name or "encoder" in name for name in language)
    tower = PeftModel.from_pretrained(
        CLIPVisionModel(CLIPVisionConfig(**CLIP)), tmp_path / "both/vision_adapter"
    )
    state = dict(tower.named_parameters())
    for name, tensor in found.items():
        assert torch.equal(state[name.replace(".weight", ".default.weight")], tensor)
    both = load_model(tmp_path / "both", device="cpu").model
    alone = load_model(tmp_path / "both", device="cpu").model
    alone.vision.load_state_dict(read_folder(Path(made.model)).model.vision.state_dict())
    assert (logits(both) - logits(alone)).abs().max() > 1e-6


def test_only_the_vision_tower_may_be_adapted(tmp_path, made):
    vision = LoraSpec(rank=2, alpha=4)
    config = replace(made, lora=None, vision_lora=vision, train=("connector",))
    train(config, tmp_path, device="cpu")
    assert not (tmp_path / "adapter").exists()
    assert read_checkpoint(tmp_path).template == "vicuna"


def test_what_learns_is_the_adapter_and_what_train_names(made):
    _, adapters, names = with_adapters(replace(made, train="instruct"))
    parts = {name.partition(".")[0] for name in names}
    assert parts == {"connector", "language"}
    assert all(".lora_" in name for name in names if name.startswith("language."))
    assert len([n for n in names if n.startswith("language.")]) == 28
    _, _, alone = with_adapters(replace(made, train=()))
    assert all(".lora_" in name for name in alone)
    saved = replace(LORA, modules_to_save=("lm_head",), bias="all")
    _, _, names = with_adapters(replace(made, lora=saved, train=()))
    assert "language.lm_head.weight" in names
    assert adapters[0].part == "language"


def test_unused_layers_of_a_tower_do_not_learn(made):
    config = replace(made, lora=None, vision_lora=LoraSpec(rank=2))
    model, _, names = with_adapters(config)
    layers = {int(name.split(".layers.")[1][0]) for name in names if ".layers." in name}
    assert layers == {0, 1}
    assert not set(names) & model.unused_parameters


def test_frozen_matrices_are_light_on_a_gpu_and_gradients_still_flow(made):
    model, adapters, names = with_adapters(replace(made, lora=replace(LORA, dropout=0.0)))
    assert lighten(adapters, torch.bfloat16, torch.device("cpu")) == 0
    ids = torch.tensor([[1, 5, 6, 7]])
    plain = model.language(ids).logits
    assert lighten(adapters, torch.bfloat16, torch.device("cuda")) == 14
    halves = {n for n, p in model.named_parameters() if p.dtype == torch.bfloat16}
    assert halves == {n for n, _ in model.named_parameters() if n.endswith("base_layer.weight")}
    with torch.autocast("cpu", torch.bfloat16):
        light = model.language(ids).logits
    torch.testing.assert_close(light.float(), plain, atol=0.05, rtol=0.05)
    light.float().logsumexp(-1).sum().backward()
    grads = {n: p.grad for n, p in model.named_parameters() if n in set(names) and "lora_B" in n}
    assert all(grad is not None and grad.abs().sum() > 0 for grad in grads.values())


def test_dropout_drops_in_training_alone(made):
    model, _, _ = with_adapters(replace(made, lora=replace(LORA, dropout=0.5)))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    ids = torch.tensor([[1, 5, 6, 7]])
    first, second = (model.language(ids).logits for _ in range(2))
    assert not torch.equal(first, second)
    model.eval()
    assert torch.equal(model.language(ids).logits, model.language(ids).logits)


def test_the_initial_state_depends_on_the_seed_alone(made):
    first, again = (attach(read_folder(Path(made.model)).model, made, 3) for _ in range(2))
    torch.manual_seed(99)
    other = attach(read_folder(Path(made.model)).model, made, 4)
    states = [one[0].state() for one in (first, again, other)]
    key = next(name for name in states[0] if "lora_A" in name)
    assert torch.equal(states[0][key], states[1][key])
    assert not torch.equal(states[0][key], states[2][key])
    assert all(not tensor.any() for name, tensor in states[0].items() if "lora_B" in name)


@pytest.mark.parametrize("settings", [{}, {"dora": True}], ids=["lora", "dora"])
def test_an_interrupted_stage_ends_with_the_same_bytes(tmp_path, made, settings):
    config = replace(made, save_every_samples=8, lora=replace(LORA, **settings))
    train(config, tmp_path / "whole", device="cpu")
    with stopped_before(4):
        train(config, tmp_path / "cut", device="cpu")
    assert list((tmp_path / "cut/checkpoint").glob("step-*"))
    train(config, tmp_path / "cut", device="cpu")
    for name in (
        "adapter/adapter_model.safetensors", "adapter/adapter_config.json", "metrics.jsonl",
        "non_lora_trainables.safetensors", "adapted.json", "summary.json", "vlforge.json",
    ):  # fmt: skip
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_checkpoint_with_another_alpha_is_not_gone_on_from(made):
    from vlforge.training.adapters import digest

    first = attach(read_folder(Path(made.model)).model, made, 3)
    config = replace(made, lora=replace(LORA, alpha=16))
    assert digest(first) != digest(attach(read_folder(Path(made.model)).model, config, 3))
    assert digest(()) == ""


def test_the_merge_stage_gives_a_model_that_trains_on(tmp_path, made):
    train(made, tmp_path / "lora", device="cpu")
    out = tmp_path / "merged"
    out.mkdir()
    job = Job(node="merge", out=out, run_dir=tmp_path)
    merge_kind.run(MergeConfig(adapter=str(tmp_path / "lora")), job)
    assert json.loads((out / "merge.json").read_text())["changed"] == 18
    assert not (out / "merging").exists()
    after = replace(made, model=str(out), lora=None, train=("connector", "language"), samples=4)
    train(after, tmp_path / "after", device="cpu")
    folder = read_folder(tmp_path / "after")
    assert [stage["kind"] for stage in folder.history] == ["train"] * 3
    assert folder.history[1]["adapters"] == {"language": {"rank": 4, "alpha": 8}}
    onward = replace(made, model=str(tmp_path / "lora"), samples=4)
    train(onward, tmp_path / "onward", device="cpu")
    assert read_checkpoint(tmp_path / "onward").weights


def test_a_stage_may_begin_from_parts(tmp_path, made):
    align = json.loads((Path(made.model) / "config.json").read_text())
    folder = Path(made.model).parent
    spec = ModelSpec(vision=str(folder / "clip"), language=str(folder / "language"))
    train(replace(made, model=spec), tmp_path, device="cpu")
    found = read_checkpoint(tmp_path)
    found.check()
    assert found.config.connector == align["connector"]
    whole = load_file(tmp_path / "non_lora_trainables.safetensors")
    assert all(torch.equal(found.weights[name].read(), whole[name]) for name in whole)


def test_new_tokens_go_along_with_the_adapter(tmp_path, made, monkeypatch):
    kept = {}

    def attached(model, config, seed):
        kept["model"] = model
        return attach(model, config, seed)

    monkeypatch.setattr("vlforge.training.loop.attach", attached)
    train(replace(made, template="vicuna+im_start_end"), tmp_path, device="cpu")
    found = read_checkpoint(tmp_path)
    found.check()
    before = read_folder(Path(made.model)).model.config.text_config.vocab_size
    assert found.config.text_config.vocab_size == before + 2
    unmerged = logits(kept["model"])
    torch.testing.assert_close(
        logits(load_model(tmp_path, device="cpu").model), unmerged, atol=1e-5, rtol=0
    )


def test_a_base_that_is_gone_is_named(tmp_path, made):
    train(made, tmp_path / "lora", device="cpu")
    told = json.loads((tmp_path / "lora/adapted.json").read_text())
    told["base"] = {"path": "/gone/align", "beside": "../gone"}
    (tmp_path / "lora/adapted.json").write_text(json.dumps(told))
    with pytest.raises(ModelError, match="vlforge merge BASE"):
        load_model(tmp_path / "lora", device="cpu")
    merge(Path(made.model), tmp_path / "lora", tmp_path / "merged")
    assert detect(tmp_path / "merged").name == "vlforge"


def test_an_adapter_is_gone_on_from(tmp_path, made):
    train(made, tmp_path, device="cpu")
    lora = replace(LORA, weights=str(tmp_path / "adapter"))
    model = read_folder(Path(made.model)).model
    found = attach(model, replace(made, lora=lora), 0)[0].state()
    wanted = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    for change, said in (({"rank": 2, "alpha": 4}, "rank"), ({"alpha": 4}, "scale")):
        model = read_folder(Path(made.model)).model
        with pytest.raises(ModelError, match=said):
            attach(model, replace(made, lora=replace(lora, **change)), 0)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lora": LoraSpec(targets=".*q_proj")}, "3 layers outside of language.*outside: leave"),
        ({"lora": LoraSpec(targets="q_porj")}, "did you mean 'q_proj'"),
        ({"lora": LoraSpec(targets="fc1")}, "means no layer of language"),
        ({"lora": LoraSpec(targets="q_proj", exclude="q_proj")}, "nothing is left"),
        ({"lora": LoraSpec(targets="(")}, "no regular expression"),
        ({"lora": LoraSpec(modules_to_save=("lm_haed",))}, "did you mean 'lm_head'"),
        ({"lora": None, "quantise": "4bit"}, "learn by lora alone"),
        ({"freeze": ("language",)}, "freeze holds 28 weights of lora"),
    ],
    ids=["leak", "typo", "elsewhere", "nothing", "broken", "whole typo", "no lora", "frozen"],
)
def test_settings_that_cannot_work_are_refused_in_one_line(made, changes, said):
    with pytest.raises(RecipeError, match=said) as caught:
        with_adapters(replace(made, **changes))
    assert "\n" not in str(caught.value)


def test_an_expression_may_leave_other_parts_alone(made):
    lora = LoraSpec(rank=2, targets=".*q_proj", outside="leave")
    model, adapters, _ = with_adapters(replace(made, lora=lora))
    assert adapters[0].layers == (
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
    )
    assert not any(".lora_" in name for name, _ in model.vision.named_parameters())


@pytest.mark.parametrize("layout", ["llava_lora", "xtuner"])
def test_the_references_layouts_take_it(tmp_path, made, layout):
    from vlforge.checkpoints.checkpoint import Parts, Writing
    from vlforge.checkpoints.index import find

    train(made, tmp_path / "lora", device="cpu")
    found = read_checkpoint(tmp_path / "lora")
    (tmp_path / "theirs").mkdir()
    find(layout).write(found, tmp_path / "theirs", Writing())
    folder = tmp_path / "theirs" / ("llm_adapter" if layout == "xtuner" else "")
    assert names_in(folder) == names_in(tmp_path / "lora/adapter")
    base = Path(made.model).parent
    parts = Parts(base=base / "language", vision=base / "clip", language=base / "language")
    again = read_checkpoint(tmp_path / "theirs", parts)
    assert set(again.weights) == set(found.weights)
    for name, lazy in found.weights.items():
        if not name.startswith("vision."):
            torch.testing.assert_close(again.weights[name].read(), lazy.read(), atol=0, rtol=0)
