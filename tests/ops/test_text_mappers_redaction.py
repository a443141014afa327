"""Private data become placeholders, in texts and wherever rows hold them."""

from __future__ import annotations

import copy

import pytest

from vlforge.ops.batch import Batch, Context, Item
from vlforge.ops.bind import bind
from vlforge.types import RecipeError


def redacted(row, **params):
    (bound,) = bind([{"pii_redaction_mapper": params}])
    before = copy.deepcopy(row)
    (result,) = bound.op.apply(Batch([Item("0", 1, row)], Context()))
    assert row == before
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at /opt/jane/x.txt, C:\\Users\\bob and \\\\srv\\a", "at [P] [P] and [P]"),
        ("x/opt/a /usr/b '/tmp'", "x/opt/a /usr/b '[P]'"),
        ("__a.b@c.de, é@f.gh @i.jk a@b.c", "__[E], é@f.gh @i.jk a@b.c"),
        ("__@a.bb@c.dd", "__@[E]"),
        ("API-key = 'k1' mytoken=2 Token: a,b", "API-key = '[S]' mytoken=2 Token: [S],b"),
        ("session_id: 1 user-id=a.b", "session_id[I] user-id[I]"),
        ("channel: feishu 当前的channel：邮箱", "channel: [C] 当前的channel：[C]"),
        (f"ou_{'aB' * 16} u_{'x-' * 8}y", "[C] [C]"),
        ("13812345678 +49 301234567 138123456789", "[T] [T] 138123456789"),
        ("11010519491231002X", "[N]"),
        ("10.20.30.40 256.1.1.1 [::1]x 1.2.3.4.5", "[A] 256.1.1.1 [A]x [A].5"),
        ("00:1A:2b:3c:4D:5e", "[M]"),
        ("eyJa.eyJb.c-= eyJ.a.b eyJa.b.-", "[J]-= eyJ.a.b eyJa.b.-"),
        ("-----BEGIN A-----\nx\n-----END A-----.", "[B]."),
        ("-----BEGIN A----------END A-----", "[B]"),
        ("-----BEGIN A-----END A-----", "-----BEGIN A-----END A-----"),
        ("-----BEGIN A-----\n-----END ", "-----BEGIN A-----\n-----END "),
        ("https://e.com/?t=1", "https://e.com/?t=1"),
    ],
)
def test_each_kind_has_its_placeholder(text, expected):
    marks = {
        "path": "P", "email": "E", "secret": "S", "id": "I", "channel_id": "C", "phone": "T",
        "id_card": "N", "ip": "A", "mac": "M", "jwt": "J", "pem": "B",
    }  # fmt: skip
    params = {f"{kind}_replacement": f"[{mark}]" for kind, mark in marks.items()}
    assert redacted({"text": text}, **params) == {"text": expected}


def test_kinds_can_be_switched():
    text = "https://e.com/a a@b.cc"
    assert redacted({"text": text}, mask_urls=True, mask_emails=False) == {
        "text": "[URL_REDACTED] a@b.cc"
    }


def test_own_patterns_come_last():
    found = redacted({"text": "a@b.cc cat"}, extra_patterns=[["cat|EMAIL", "<X>"]])
    assert found == {"text": "[<X>_REDACTED] <X>"}


@pytest.mark.parametrize(
    "params",
    [{"extra_patterns": [["(a", "x"]]}, {"path_replacement": "\\q"}, {"id_replacement": "\\2"}],
)
def test_bad_patterns_are_refused_at_load(params):
    with pytest.raises(RecipeError, match=r"is no replacement|does not fit"):
        bind([{"pii_redaction_mapper": params}])


ROW = {
    "text": "hi",
    "images": ["/tmp" + "/a.jpg"],
    "query": ["token=a", "b"],
    "dialog_history": [["token=a", "b@c.de", "f@g.hi"], ["q@r.st"]],
    "messages": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "a@b.cc"}, "token=a"],
            "tool_calls": [{"function": {"name": "a@b.cc", "arguments": "token=a"}}],
        }
    ],
    "meta": {"path": "/etc/x", "note": "/etc/x", "list": [1, "/etc/x"]},
}


def test_dialogues_and_nested_paths_are_redacted_once():
    assert redacted(ROW) == {
        "text": "hi",
        "images": ROW["images"],
        "query": ["token=[REDACTED]", "b"],
        "dialog_history": [
            ["token=[REDACTED]", "[EMAIL_REDACTED]", "[EMAIL_REDACTED]"],
            ["[EMAIL_REDACTED]"],
        ],
        "messages": [
            {
                "role": "user",
                "content": [{"type": "text", "text": "[EMAIL_REDACTED]"}, "token=[REDACTED]"],
                "tool_calls": [{"function": {"name": "a@b.cc", "arguments": "token=[REDACTED]"}}],
            }
        ],
        "meta": {"path": "[PATH_REDACTED]", "note": "/etc/x", "list": [1, "[PATH_REDACTED]"]},
    }


def test_data_juicers_ways_come_back():
    found = redacted(ROW, compat="data_juicer")
    assert found["images"] == ["[PATH_REDACTED]"]
    assert found["query"] == ["token=[REDACTED]]", "b"]
    assert [*map(list, found["dialog_history"])] == [
        ["token=[REDACTED]", "[EMAIL_REDACTED]"],
        ["[EMAIL_REDACTED]"],
    ]


def test_rows_without_private_data_are_the_same_rows():
    row = {"text": "a cat", "messages": [{"role": "user", "content": "x"}], "n": 1}
    assert redacted(row) is row


def test_only_the_named_fields_are_redacted():
    row = {"text": "a@b.cc", "title": "a@b.cc"}
    assert redacted(row, redact_keys=["title"]) == {"text": "a@b.cc", "title": "[EMAIL_REDACTED]"}
