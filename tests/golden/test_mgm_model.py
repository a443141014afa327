"""Mini-Gemini's tiny models: features, mining, splice, logits, losses, gradients, answers.

The recorded low-resolution views are rounded to bf16, so they are given as they are
instead of being made from the high-resolution picture (which `test_mgm_preprocess` does).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.golden.recorded import followed
from vlforge.checkpoints.checkpoint import Checkpoint, Parts
from vlforge.checkpoints.index import read_checkpoint
from vlforge.checkpoints.mgm import their_name
from vlforge.kernels.lean_loss import supervised_tokens
from vlforge.kernels.mining import join_maps
from vlforge.models.base import PARTS
from vlforge.models.mgm import MgmModel
from vlforge.training.config import Optimiser
from vlforge.training.freezing import freeze
from vlforge.training.optimiser_groups import optimiser_groups

GOLDEN = {
    "cases_file": "mgm/model/*/cases.safetensors",
    "gradients_file": "mgm/model/*/grads.safetensors",
}
GRIDS = {"g1": (1, False), "g2": (2, False), "g2global": (2, True)}
NOTHING = 1e-6
"""Gradients below this are rounding noise around zero in the reference."""


@dataclass
class Case:
    """One family's folder: what it holds and how its model is opened."""

    folder: Path
    where: Path

    def __post_init__(self):
        torch.set_num_threads(1)
        self.info = json.loads((self.folder / "info.json").read_text(encoding="utf-8"))
        self.cases = load_file(self.folder / "cases.safetensors")
        pixels = load_file(self.folder.parent / "pixels.safetensors")
        self.pixels = {name: value.float() for name, value in pixels.items()}
        self.checkpoint = read_checkpoint(self._folder(), Parts(vision=self._clip()))

    def _folder(self) -> Path:
        """The folder itself, or its configuration beside the weights of the one it is made of."""
        if (self.folder / "model.safetensors").is_file():
            return self.folder
        kin = [p.parent for p in self.folder.parent.glob("*/model.safetensors")]
        owner = next(p for p in kin if self.folder.name.startswith(p.name))
        made = self.where / "joined"
        made.mkdir()
        (made / "config.json").write_bytes((self.folder / "config.json").read_bytes())
        (made / "model.safetensors").symlink_to(owner / "model.safetensors")
        return made

    def _clip(self) -> Path:
        fields = json.loads((self.folder / "vision_configs.json").read_text(encoding="utf-8"))
        made = self.where / "clip"
        made.mkdir()
        (made / "config.json").write_text(json.dumps(fields["clip"]))
        (made / "preprocessor_config.json").write_text(json.dumps(fields["preprocessor"]))
        return made

    def model(self, prefix: str = "g1") -> MgmModel:
        """The model with the image grid that a case was recorded with."""
        grid, has_global = GRIDS[prefix]
        config = type(self.checkpoint.config).from_dict(
            self.checkpoint.config.to_dict() | {"image_grid": grid, "image_global": has_global}
        )
        config.text_config.hidden_act = self.checkpoint.config.text_config.hidden_act
        return replace(self.checkpoint, config=config).build()

    def see(self, model: MgmModel, prefix: str, rows: list[int] | None = None):
        """The recorded pictures of a case through both encoders."""
        views = self.pixels["g2global.images" if prefix != "g1" else "g1.images"]
        views = views[:, None] if prefix == "g1" else views
        views, high = (
            views[:, : model.vision.tokens // model.vision.low.tokens],
            self.pixels["images_aux"],
        )
        if rows is not None:
            views, high = views[rows], high[rows]
        return model.vision.see(views, high)

    def splice(self, model: MgmModel, prefix: str, **how):
        """The recorded batch; its rows without `<image>` carry a picture too."""
        of = "multi." if prefix == "multi" else ""
        rows = self.info["multi.image_rows"] if of else None
        return model.splice(
            self.cases[of + "input_ids"],
            features=self.see(model, "g1" if of else prefix, rows),
            labels=self.cases[of + "labels"],
            mask=self.cases[of + "attention_mask"].bool(),
            dummy_images=True,
            **how,
        )


def mean_loss(model, spliced):
    return model.loss_sum(spliced) / supervised_tokens(spliced.plan.labels)


def near(found, wanted, within=1e-4):
    torch.testing.assert_close(found, wanted, atol=within, rtol=1e-5)


def recorded(case: Case) -> list[str]:
    """The cases that a folder has."""
    return [name for name in (*GRIDS, "multi") if f"{name}.mm_labels" in case.cases]


@pytest.mark.parametrize("order", ["folded", "published"])
@torch.no_grad()
def test_features_are_the_references(cases_file: Path, tmp_path: Path, order):
    case = Case(cases_file.parent, tmp_path)
    for prefix in set(recorded(case)) - {"multi"}:
        model = case.model(prefix)
        model.connector.miner.order = order
        views = case.see(model, prefix)
        near(model.connector(views), case.cases[f"{prefix}.image_features"])
        if f"{prefix}.clip_features" in case.cases:
            near(views.tokens[:, 0], case.cases[f"{prefix}.clip_features"])
            aux = case.cases[f"{prefix}.aux_features_row0_stride4"]
            near(join_maps(views.maps)[:1, :, ::4, ::4], aux)
            mined = case.cases[f"{prefix}.resampler_embed_feat"]
            near(model.connector.mine(views)[:, 0], mined)


@torch.no_grad()
def test_splice_and_logits_are_the_references(cases_file: Path, tmp_path: Path):
    case = Case(cases_file.parent, tmp_path)
    assert recorded(case)
    for prefix in recorded(case):
        model = case.model("g1" if prefix == "multi" else prefix)
        made = case.splice(model, prefix)
        gold = {k.removeprefix(f"{prefix}."): v for k, v in case.cases.items()}
        real = gold["mm_attention_mask"].bool()
        assert torch.equal(made.plan.mask, real)
        assert torch.equal(made.plan.labels, gold["mm_labels"])
        embeds = made.embeds / model.picture_scale
        if f"{prefix}.inputs_embeds" in case.cases:
            near(embeds, gold["inputs_embeds"])
        else:
            near(embeds.sum(-1), gold["inputs_embeds_rowsum"], 1e-3)
        logits = model.language(
            inputs_embeds=made.embeds,
            attention_mask=made.plan.mask,
            position_ids=made.plan.positions,
        ).logits
        near(logits.logsumexp(-1)[real], gold["logits_lse"][real])
        assert torch.equal(logits.argmax(-1)[real], gold["logits_argmax"][real])
        if f"{prefix}.logits_last8" in case.cases:
            near(logits[:, -8:][real[:, -8:]], gold["logits_last8"][real[:, -8:]])
        wanted = case.info[f"{prefix}.loss"]
        assert mean_loss(model, made).item() == pytest.approx(wanted, rel=1e-5)


@torch.no_grad()
def test_truncation_and_left_padding_are_the_references(cases_file: Path, tmp_path: Path):
    case = Case(cases_file.parent, tmp_path)
    model, length = case.model(), case.info["g1.trunc_length"]
    for name, how in {
        "g1.trunc": {"max_length": length},
        "g1.leftpad": {"padding_side": "left"},
        "g1.leftpad_trunc": {"padding_side": "left", "max_length": length},
    }.items():
        made = case.splice(model, "g1", **how)
        real = case.cases[f"{name}.mm_attention_mask"].bool()
        assert torch.equal(made.plan.mask, real)
        assert torch.equal(made.plan.labels, case.cases[f"{name}.mm_labels"])
        near(made.embeds.sum(-1) / model.picture_scale, case.cases[f"{name}.embeds_rowsum"], 1e-3)
        assert mean_loss(model, made).item() == pytest.approx(case.info[f"{name}.loss"], rel=1e-5)


@torch.no_grad()
def test_greedy_answers_are_the_references(cases_file: Path, tmp_path: Path):
    case = Case(cases_file.parent, tmp_path)
    for name, asked in case.info.get("generate", {}).items():
        prefix, _, cache = name.partition("_")
        model = case.model(prefix if prefix in GRIDS else "g1")
        ids = torch.tensor([asked["input_ids"]])
        has_picture = bool((ids == -200).any())
        features = case.see(model, prefix, [asked["row"]]) if has_picture else None
        made = model.splice(ids, features=features, padding_side="left")
        found = model.language.generate(
            inputs_embeds=made.embeds,
            attention_mask=made.plan.mask.long(),
            max_new_tokens=len(asked["new_ids"]),
            do_sample=False,
            use_cache=cache != "nocache",
            pad_token_id=0,
        )
        assert found[0].tolist() == asked["new_ids"], name


def frozen(model: MgmModel, stage: str) -> set[str]:
    """Freeze as the published stage; the names that learn, in the reference's words."""
    train = model.stages["align" if stage.startswith("stage1") else "instruct"]
    towers = model.published_towers() if "optimize_towers" in stage else ()
    names = freeze(model, (*train, *towers), PARTS, model.unused_parameters)
    return {their_name(name) for name in names}


def test_what_learns_is_what_learns_in_the_reference(gradients_file: Path, tmp_path: Path):
    case = Case(gradients_file.parent, tmp_path)
    unused = {their_name(name) for name in case.model().unused_parameters}
    stages = [k.removesuffix(".requires_grad") for k in case.info if k.endswith("requires_grad")]
    assert stages
    for stage in stages:
        # The reference lets CLIP's last layer learn, which no output depends on.
        wanted = set(case.info[f"{stage}.requires_grad"]) - unused
        found = frozen(case.model(), stage)
        if all("vision" in name for name in wanted):  # such lists name the encoders' alone
            found = {name for name in found if "vision" in name}
        assert found == wanted, stage


def test_gradients_are_the_references(gradients_file: Path, tmp_path: Path):
    case = Case(gradients_file.parent, tmp_path)
    full = load_file(gradients_file)
    stages = [k.removesuffix(".grad_norms") for k in case.info if k.endswith(".grad_norms")]
    for stage in stages:
        prefix = stage.rpartition("_")[2]
        model = case.model(prefix)
        frozen(model, stage)
        loss = mean_loss(model, case.splice(model, prefix))
        assert loss.item() == pytest.approx(case.info[f"{stage}.loss"], rel=1e-5)
        loss.backward()
        found = {their_name(name): p.grad for name, p in model.named_parameters()}
        for name, norm in case.info[f"{stage}.grad_norms"].items():
            grad = found[name]
            got = 0.0 if grad is None else grad.norm().item()
            assert got == pytest.approx(norm, rel=1e-3, abs=NOTHING), (stage, name)
        for name, wanted in full.items():
            if name.startswith(f"{stage}:"):
                near(found[name.removeprefix(f"{stage}:")], wanted, 1e-5)


def test_optimiser_groups_are_the_references(gradients_file: Path, tmp_path: Path):
    case = Case(gradients_file.parent, tmp_path)
    settings = {
        "default": {},
        "mm_projector_lr": {"lr_parts": {"mm_projector": 2e-5}},
        "lr_multi": {"lr_multi": {"model.mm_projector": 2, "model.vlm_uni": 2}},
    }
    for name, groups in case.info["optimizer_groups"].items():
        model = case.model()
        freeze(model, model.stages["instruct"], PARTS, model.unused_parameters)
        optimiser = Optimiser(lr=1e-5, weight_decay=0.01, groups="mgm", **settings[name])
        found, wanted = {}, {}
        for group in optimiser_groups(model, optimiser, PARTS):
            rate = (group["lr"], group["weight_decay"])
            found.setdefault(rate, set()).update(map(their_name, group["names"]))
        for group in groups:
            wanted.setdefault((group["lr"], group["weight_decay"]), set()).update(group["params"])
        assert found == wanted, name


@pytest.mark.parametrize(("stage", "lr"), [("stage1", 1e-3), ("stage2", 2e-4)])
def test_training_follows_the_references_steps(gradients_file: Path, tmp_path: Path, stage, lr):
    case = Case(gradients_file.parent, tmp_path)
    steps = case.info[f"{stage}_train_g1"]
    model = case.model()
    frozen(model, stage)
    settings = Optimiser(lr=lr, groups="mgm", schedule="cosine", warmup_steps=1)
    seen = followed(model, lambda: case.splice(model, "g1"), settings, len(steps), tmp_path)
    assert seen.rates == pytest.approx([step["lr"] for step in steps], rel=1e-6)
    assert seen.losses == pytest.approx([step["loss"] for step in steps], rel=1e-4)
    assert seen.norms == pytest.approx([step["grad_norm"] for step in steps], rel=1e-3)
    if stage == "stage1":
        after = load_file(gradients_file.with_name("stage1_after6.safetensors"))
        found = {their_name(name): p.detach() for name, p in model.named_parameters()}
        for name, wanted in after.items():
            if "aux_projector" not in name or "bias" not in name:  # Adam walks those on noise
                near(found[name], wanted, 2e-4)


def test_names_are_the_references(gradients_file: Path, tmp_path: Path):
    case = Case(gradients_file.parent, tmp_path)
    model = case.model()
    keys = {their_name(n): list(p.shape) for n, p in model.named_parameters()}
    kept = {k: shape for k, shape in keys.items() if "vision" in k or "mm_" in k or "vlm_" in k}
    assert kept == case.info["mm_projector.bin.keys"]
    linear = {
        name.rpartition(".")[2]
        for name, module in model.language.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    assert sorted(linear - {"lm_head"}) == case.info["lora_targets"]


def test_the_checkpoint_is_whole(cases_file: Path, tmp_path: Path):
    checkpoint: Checkpoint = Case(cases_file.parent, tmp_path).checkpoint
    checkpoint.check()
    assert checkpoint.family == "mgm"
