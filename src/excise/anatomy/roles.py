"""Tables of module names inside decoder layers that write to the residual stream.

Patterns hold across model types, because transformers names modules by role; exceptions are listed by model
type. `excise.experiment.coverage` measures whether the tables are right for a model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

ATTENTION = "attn.o_proj"
MLP = "mlp.down_proj"
COMPONENTS = (ATTENTION, MLP)


@dataclass(frozen=True)
class Role:
    """A component and the pattern of its modules' names, relative to the decoder layer."""

    pattern: re.Pattern[str]
    component: str


def _roles(component: str, *patterns: str) -> tuple[Role, ...]:
    return tuple(Role(re.compile(pattern), component) for pattern in patterns)


ROLES: tuple[Role, ...] = (
    *_roles(
        MLP,
        r"(.+\.)?experts",  # all experts' matrices in one parameter; returns the experts' weighted sum
        r"(.+\.)?(down_proj|fc2|w2|dense_4h_to_h|fc_out|w_out|output_linear|proj_down)",
        r"(mlp|ffn|feed_forward)\.(c_proj|Wo|2|output\.dense|output)",
        r"output\.dense",  # BERT and similar models: beside attention.output.dense
        r"mlp\.post_expert_proj",  # Muse Spark: experts with a narrower width
        r"per_layer_projection",  # Gemma 3n and 4: what the per-layer embedding adds
        r"ff\.layer_2",
        r"output\.adapter_modules\.\w+\.dense2",  # X-MOD: a residual adapter for each language
    ),
    *_roles(
        ATTENTION,
        # Softmax attention, Mamba, linear attention, short convolutions: the projection out of the mixer.
        r"(.+\.)?(o_proj|out_proj|o_b_proj|attention_out|linear_out)(\.linear)?",
        r"(self_attn|self_attention|attention|attn|multi_head_attention)\.(dense|c_proj|Wo)",
        r"attention\.output\.dense",
        r"laurel\.linear_right",  # Gemma 3n: a low-rank path beside attention
    ),
)
"""Modules that write to the residual stream: linear layers, and experts."""

EXPERT_WEIGHTS = ("down_proj", "w2", "output_linear.weight")
EXPERT_BIASES = ("down_proj_bias", "w2_bias")
"""Names of parameters in a module of experts: [expert, d, k] or [expert, k, d], and [expert, d]."""

NOT_WRITERS = re.compile(
    r"(.+\.)?("
    r"encoder_attn|crossattention"  # cross-attention, unused in decoder-only models
    r"|indexer|compressor|router|gate|forget_gate|output_gate|qkv_proj"  # inputs of the mixer or router
    r"|shared_transf|shared_transformer"  # Zamba: feeds the Mamba mixer, not the stream
    r"|.*norm\.mlp"  # A.X K2: computes the gain of a norm
    r"|altup|attn_hc|ffn_hc"  # mixes streams by scalars, adds nothing
    r")(\..+)?"
)
"""Modules whose projections do not write to the residual stream, although their names suggest it."""

TOWERS = re.compile(
    r"(.*[._])?(vision|visual|audio|image|video|speech|mtp|patcher)([._].*|\d*)?"
    r"|.*(vision|audio)_(tower|model|encoder|embed_tokens_extend).*"
)
"""Modules of multimodal models outside the language model."""


@dataclass(frozen=True)
class Block:
    """A module whose output is edited as a whole, and its parameters.

    module, weights, biases: names relative to the layer.
    """

    module: str
    component: str
    weights: tuple[str, ...]
    biases: tuple[str, ...] = ()


BLOCKS: dict[str, tuple[Block, ...]] = {
    # All experts' matrices are stacked: [expert · k, d].
    "dbrx": (
        Block("norm_attn_norm.attn.out_proj", ATTENTION, ("norm_attn_norm.attn.out_proj.weight",)),
        Block("ffn.experts", MLP, ("ffn.experts.mlp.w2",)),
    ),
    # Each expert has two matrices; the second output is sorted by expert, and the bias is added last.
    "jetmoe": (
        Block("self_attention", ATTENTION, ("self_attention.experts.output_linear.weight",),
              ("self_attention.experts.bias",)),
        Block("mlp", MLP, ("mlp.output_linear.weight",), ("mlp.bias",)),
    ),
    # In the last layer, attention returns its bias separately, and it is added later.
    "gpt_neox_japanese": (
        Block("attention", ATTENTION, ("attention.dense.weight",), ("attention.dense_bias",)),
        Block("mlp.dense_4h_to_h", MLP, ("mlp.dense_4h_to_h.weight",)),
    ),
    # Some experts are the identity, without weights. Editing the block's output edits them too, which no
    # edit of matrices can.
    "longcat_flash": (
        Block("self_attn.0.o_proj", ATTENTION, ("self_attn.0.o_proj.weight",)),
        Block("self_attn.1.o_proj", ATTENTION, ("self_attn.1.o_proj.weight",)),
        Block("mlps.0.down_proj", MLP, ("mlps.0.down_proj.weight",)),
        Block("mlps.1.down_proj", MLP, ("mlps.1.down_proj.weight",)),
        Block("mlp.experts", MLP, ()),
    ),
    # A gate multiplies each component after the projection. No edit of a matrix has the same effect, but an
    # edit of the block's output has.
    "rwkv": (
        Block("attention", ATTENTION, ("attention.output.weight",)),
        Block("feed_forward", MLP, ()),
    ),
    # A depthwise convolution over tokens follows every writer.
    "inkling_text": (Block("attn_sconv", ATTENTION, ()), Block("mlp_sconv", MLP, ())),
    "inkling2_text": (
        Block("post_attention_convolution", ATTENTION, ()),
        Block("post_mlp_convolution", MLP, ()),
    ),
}  # fmt: skip
"""Model types whose writers the patterns do not find; all writers of these types are listed here."""


_MIXER = r"(self_attn|linear_attn|attn|conv|mamba|self_attention)\..+"
_FEED_FORWARD = r"(mlp|feed_forward|moe|block_sparse_moe|experts)(\..+)?"

_POST_NORMS: tuple[tuple[tuple[str, ...], Mapping[str, tuple[str, ...]]], ...] = (
    # Gemma 4 with experts: the sum of experts and dense MLP passes a second norm.
    (
        ("post_feedforward_layernorm_1", "post_feedforward_layernorm_2"),
        {
            r"mlp\..+": ("post_feedforward_layernorm_1", "post_feedforward_layernorm"),
            r"(experts|moe)(\..+)?": ("post_feedforward_layernorm_2", "post_feedforward_layernorm"),
            _MIXER: ("post_attention_layernorm",),
            "per_layer_projection": ("post_per_layer_input_norm",),
        },
    ),
    # Gemma 2, 3, 3n and 4, OLMo 2 and 3, EXAONE 4: the first name shows that the second is a post-norm.
    (
        ("post_feedforward_layernorm", "post_attention_layernorm"),
        {
            _MIXER: ("post_attention_layernorm",),
            _FEED_FORWARD: ("post_feedforward_layernorm",),
            r"laurel\.linear_right": ("laurel.post_laurel_norm",),
            "per_layer_projection": ("post_per_layer_input_norm",),
        },
    ),
    # GLM 4.
    (
        ("post_self_attn_layernorm", "post_mlp_layernorm"),
        {_MIXER: ("post_self_attn_layernorm",), _FEED_FORWARD: ("post_mlp_layernorm",)},
    ),
    # AFMoE.
    (
        ("pre_mlp_layernorm", "post_mlp_layernorm"),
        {_MIXER: ("post_attention_layernorm",), _FEED_FORWARD: ("post_mlp_layernorm",)},
    ),
    # LFM 3.
    (
        ("post_operator_norm", "post_ffn_norm"),
        {_MIXER: ("post_operator_norm",), _FEED_FORWARD: ("post_ffn_norm",)},
    ),
    # HyperCLOVA X.
    (
        ("post_norm1", "post_norm2"),
        {_MIXER: ("post_norm1",), _FEED_FORWARD: ("post_norm2",)},
    ),
    # A.X K1.
    (("mlp.post_mlp_layernorm",), {_FEED_FORWARD: ("mlp.post_mlp_layernorm",)}),
)
"""Families of layers with norms between writers and the residual addition.

Each has the module names that identify it and, for patterns of writers' names, the names of the norms that
their output passes, in order. The first family whose names are all in a layer applies to the layer, and of
that family the first pattern that matches.
"""


def post_norms(writer: str, modules: set[str]) -> tuple[str, ...]:
    """Post-norms of a writer in a layer of these `modules`; all names are relative to the layer."""
    behind = next((own for present, own in _POST_NORMS if modules.issuperset(present)), {})
    return next((norms for pattern, norms in behind.items() if re.fullmatch(pattern, writer)), ())


def component_of(name: str) -> str | None:
    """The component of a module's name, relative to its layer; None if no role matches."""
    if NOT_WRITERS.fullmatch(name):
        return None
    return next((role.component for role in ROLES if role.pattern.fullmatch(name)), None)
