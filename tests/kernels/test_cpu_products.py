import torch
from torch.nn import functional as F

from tests.drift import drift
from tests.tiny_model import llava
from vlforge.kernels import cpu_products
from vlforge.kernels.cpu_products import fast_products, plain_attention


def test_fp32_products_stay_in_fp32():
    torch.manual_seed(0)
    x, weight = torch.randn(64, 48), torch.randn(32, 48)

    def switched(x, weight):
        with fast_products("fp32"):
            return F.linear(x, weight)

    exact = F.linear(x.double(), weight.double())
    assert (switched(x, weight).double() - exact).abs().max() < 1e-4
    assert drift(switched, F.linear, x, weight) < 1e-4


def test_switches_go_back():
    before = torch.backends.mkldnn.matmul.fp32_precision
    with fast_products("bf16"):
        pass
    assert torch.backends.mkldnn.matmul.fp32_precision == before


def test_plain_attention_equals_the_fused_one():
    model = llava()
    ids = torch.tensor([[1, 5, -200, 7, 8], [1, 9, -200, 6, 5]])
    pixels = torch.randn(2, 3, 16, 16)
    before = model.language.config._attn_implementation
    fused = model(ids, pixels).logits
    with plain_attention(model, longest=12):
        assert model.language.config._attn_implementation == "eager"
        plain = model(ids, pixels).logits
    assert (fused - plain).abs().max() < 1e-5
    assert model.language.config._attn_implementation == before


def test_long_rows_keep_fused_attention():
    model = llava()
    before = model.language.config._attn_implementation
    with plain_attention(model, longest=cpu_products.LONGEST_PLAIN_ATTENTION + 1):
        assert model.language.config._attn_implementation == before
