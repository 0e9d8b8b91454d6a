"""The kinds of models that are tested, each as a tiny random one, and docs/models.md, which is made from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SIZES = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 4}
GROUPED = {"num_key_value_heads": 2}
WIDE_HEADS = {**GROUPED, "head_dim": 4}
OLD_NAMES = {"n_layer": 2, "n_embd": 16, "n_head": 4}


@dataclass(frozen=True)
class Family:
    """A configuration's class in transformers, its `model_type`, where the neurons are, and sizes beside `SIZES`.

    `by_hand`: `ffn` is not found but has to be given.
    """

    config: str
    model_type: str
    ffn: str
    sizes: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    by_hand: bool = False

    def __str__(self) -> str:
        return self.config

    @property
    def all_sizes(self) -> dict[str, Any]:
        return {**SIZES, **self.sizes}


DECODERS = (
    Family("ApertusConfig", "apertus", "model.layers.{i}.mlp.down_proj", GROUPED),
    Family("ArceeConfig", "arcee", "model.layers.{i}.mlp.down_proj", GROUPED),
    Family(
        "BambaConfig",
        "bamba",
        "model.layers.{i}.feed_forward.down_proj",
        {**GROUPED, "mamba_n_heads": 8, "mamba_d_head": 4, "attn_layer_indices": [1]},
        note="Mamba in place of some attention",
    ),
    Family("BertConfig", "bert", "bert.encoder.layer.{i}.output.dense", {"is_decoder": True}, note="as a decoder"),
    Family("BioGptConfig", "biogpt", "biogpt.layers.{i}.fc2"),
    Family(
        "BitNetConfig",
        "bitnet",
        "model.layers.{i}.mlp.down_proj",
        GROUPED,
        note="a norm between the activation and the output projection",
    ),
    Family(
        "BloomConfig",
        "bloom",
        "transformer.h.{i}.mlp.dense_4h_to_h",
        {"n_head": 4},
        note="ALiBi; the residual is added inside the FFNN",
    ),
    Family("CTRLConfig", "ctrl", "transformer.h.{i}.ffn.2", {**OLD_NAMES, "dff": 40}),
    Family("CodeGenConfig", "codegen", "transformer.h.{i}.mlp.fc_out", {**OLD_NAMES, "rotary_dim": 4}),
    Family("Cohere2Config", "cohere2", "model.layers.{i}.mlp.down_proj", WIDE_HEADS),
    Family(
        "CohereConfig",
        "cohere",
        "model.layers.{i}.mlp.down_proj",
        GROUPED,
        note="Command R; attention and FFNN in parallel, scaled logits",
    ),
    Family("DiffLlamaConfig", "diffllama", "model.layers.{i}.mlp.down_proj", GROUPED, note="differential attention"),
    Family("Ernie4_5Config", "ernie4_5", "model.layers.{i}.mlp.down_proj", GROUPED),
    Family("Exaone4Config", "exaone4", "model.layers.{i}.mlp.down_proj", {**WIDE_HEADS, "sliding_window": 8}),
    Family(
        "FalconConfig",
        "falcon",
        "transformer.h.{i}.mlp.dense_4h_to_h",
        note="attention and FFNN in parallel, adds in place",
    ),
    Family(
        "FalconH1Config",
        "falcon_h1",
        "model.layers.{i}.feed_forward.down_proj",
        WIDE_HEADS,
        note="Mamba beside attention",
    ),
    Family("GPT2Config", "gpt2", "transformer.h.{i}.mlp.c_proj"),
    Family(
        "GPTBigCodeConfig", "gpt_bigcode", "transformer.h.{i}.mlp.c_proj", OLD_NAMES, note="one key-value head for all"
    ),
    Family(
        "GPTJConfig",
        "gptj",
        "transformer.h.{i}.mlp.fc_out",
        {**OLD_NAMES, "rotary_dim": 4},
        note="attention and FFNN in parallel",
    ),
    Family(
        "GPTNeoConfig",
        "gpt_neo",
        "transformer.h.{i}.mlp.c_proj",
        {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4, "window_size": 8},
        note="local attention in every other layer",
    ),
    Family(
        "GPTNeoXConfig",
        "gpt_neox",
        "gpt_neox.layers.{i}.mlp.dense_4h_to_h",
        note="Pythia; attention and FFNN in parallel",
    ),
    Family("GPTNeoXJapaneseConfig", "gpt_neox_japanese", "gpt_neox_japanese.layers.{i}.mlp.dense_4h_to_h"),
    Family(
        "Gemma2Config",
        "gemma2",
        "model.layers.{i}.mlp.down_proj",
        {**WIDE_HEADS, "sliding_window": 8},
        note="norms before and after, soft-capped logits",
    ),
    Family(
        "Gemma3TextConfig",
        "gemma3_text",
        "model.layers.{i}.mlp.down_proj",
        {**WIDE_HEADS, "sliding_window": 8},
        note="scales the embedding",
    ),
    Family(
        "Gemma4TextConfig",
        "gemma4_text",
        "model.layers.{i}.mlp.down_proj",
        {**WIDE_HEADS, "hidden_size_per_layer_input": 8, "sliding_window": 8},
        note="two projections look like an FFNN's: give `--ffn`; gradients are of the first of its two embeddings",
        by_hand=True,
    ),
    Family("GemmaConfig", "gemma", "model.layers.{i}.mlp.down_proj", WIDE_HEADS, note="scales the embedding"),
    Family("Glm4Config", "glm4", "model.layers.{i}.mlp.down_proj", WIDE_HEADS),
    Family("GlmConfig", "glm", "model.layers.{i}.mlp.down_proj", WIDE_HEADS),
    Family(
        "GraniteConfig",
        "granite",
        "model.layers.{i}.mlp.down_proj",
        {**GROUPED, "logits_scaling": 3.0},
        note="scales embedding, residuals and logits",
    ),
    Family("HeliumConfig", "helium", "model.layers.{i}.mlp.down_proj", WIDE_HEADS),
    Family("HunYuanDenseV1Config", "hunyuan_v1_dense", "model.layers.{i}.mlp.down_proj", WIDE_HEADS),
    Family("InternLM3Config", "internlm3", "model.layers.{i}.mlp.down_proj", WIDE_HEADS),
    Family(
        "Lfm2Config",
        "lfm2",
        "model.layers.{i}.feed_forward.w2",
        GROUPED,
        note="convolutions in place of some attention",
    ),
    Family(
        "LlamaConfig",
        "llama",
        "model.layers.{i}.mlp.down_proj",
        GROUPED,
        note="also SmolLM, Vicuna, TinyLlama, Yi, DeepSeek-LLM",
    ),
    Family("Ministral3Config", "ministral3", "model.layers.{i}.mlp.down_proj", WIDE_HEADS),
    Family(
        "MistralConfig",
        "mistral",
        "model.layers.{i}.mlp.down_proj",
        {**GROUPED, "sliding_window": 8},
        note="sliding window",
    ),
    Family(
        "ModernBertDecoderConfig", "modernbert-decoder", "model.layers.{i}.mlp.Wo", note="gate and up in one projection"
    ),
    Family(
        "MptConfig",
        "mpt",
        "transformer.blocks.{i}.ffn.down_proj",
        {"n_layers": 2, "d_model": 16, "n_heads": 4},
        note="ALiBi",
    ),
    Family("NanoChatConfig", "nanochat", "model.layers.{i}.mlp.fc2", GROUPED),
    Family("NemotronConfig", "nemotron", "model.layers.{i}.mlp.down_proj", GROUPED),
    Family(
        "OPTConfig",
        "opt",
        "model.decoder.layers.{i}.fc2",
        {"ffn_dim": 40, "word_embed_proj_dim": 8},
        note="projects the embedding",
    ),
    Family("Olmo2Config", "olmo2", "model.layers.{i}.mlp.down_proj", note="norms after attention and FFNN only"),
    Family("Olmo3Config", "olmo3", "model.layers.{i}.mlp.down_proj", {**GROUPED, "sliding_window": 8}),
    Family("OlmoConfig", "olmo", "model.layers.{i}.mlp.down_proj"),
    Family(
        "OlmoHybridConfig",
        "olmo_hybrid",
        "model.layers.{i}.mlp.down_proj",
        {**GROUPED, "num_hidden_layers": 4},
        note="linear attention in most layers",
    ),
    Family("OpenAIGPTConfig", "openai-gpt", "transformer.h.{i}.mlp.c_proj", OLD_NAMES, note="blocks give lists"),
    Family("PersimmonConfig", "persimmon", "model.layers.{i}.mlp.dense_4h_to_h"),
    Family("Phi3Config", "phi3", "model.layers.{i}.mlp.down_proj", note="gate and up in one projection"),
    Family("PhiConfig", "phi", "model.layers.{i}.mlp.fc2", note="attention and FFNN in parallel, one norm"),
    Family("Qwen2Config", "qwen2", "model.layers.{i}.mlp.down_proj", GROUPED),
    Family("Qwen3Config", "qwen3", "model.layers.{i}.mlp.down_proj", WIDE_HEADS),
    Family(
        "Qwen3_5TextConfig",
        "qwen3_5_text",
        "model.layers.{i}.mlp.down_proj",
        {
            **WIDE_HEADS,
            "num_hidden_layers": 4,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 4,
            "linear_value_head_dim": 4,
        },
        note="linear attention in most layers",
    ),
    Family("SeedOssConfig", "seed_oss", "model.layers.{i}.mlp.down_proj", WIDE_HEADS),
    Family("SmolLM3Config", "smollm3", "model.layers.{i}.mlp.down_proj", GROUPED),
    Family("StableLmConfig", "stablelm", "model.layers.{i}.mlp.down_proj", GROUPED),
    Family("Starcoder2Config", "starcoder2", "model.layers.{i}.mlp.c_proj", GROUPED),
    Family(
        "XGLMConfig",
        "xglm",
        "model.layers.{i}.fc2",
        {"d_model": 16, "ffn_dim": 40, "num_layers": 2, "attention_heads": 4},
    ),
)
SEQUENCES = {
    "d_model": 16, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40, "decoder_ffn_dim": 40,
}  # fmt: skip
T5_SIZES = {"d_model": 16, "d_kv": 4, "d_ff": 40, "num_layers": 2, "num_heads": 4}
MASKED = (
    Family(
        "AlbertConfig",
        "albert",
        "albert.encoder.albert_layer_groups.0.albert_layers.{i}.ffn_output",
        {"embedding_size": 8},
        note="all layers share one module, which is read at each of its runs",
    ),
    Family("BertConfig", "bert", "bert.encoder.layer.{i}.output.dense"),
    Family(
        "DistilBertConfig",
        "distilbert",
        "distilbert.transformer.layer.{i}.ffn.lin2",
        {"n_layers": 2, "dim": 16, "hidden_dim": 40, "n_heads": 4},
    ),
    Family("ElectraConfig", "electra", "electra.encoder.layer.{i}.output.dense", {"embedding_size": 8}),
    Family("DebertaV2Config", "deberta-v2", "deberta.encoder.layer.{i}.output.dense"),
    Family("ModernBertConfig", "modernbert", "model.layers.{i}.mlp.Wo", note="gated"),
    Family("MPNetConfig", "mpnet", "mpnet.encoder.layer.{i}.output.dense"),
    Family("RobertaConfig", "roberta", "roberta.encoder.layer.{i}.output.dense"),
    Family("XLMRobertaConfig", "xlm-roberta", "roberta.encoder.layer.{i}.output.dense"),
)
ENCODER_DECODERS = (
    Family("BartConfig", "bart", "layers.{i}.fc2", SEQUENCES),
    Family("MBartConfig", "mbart", "layers.{i}.fc2", SEQUENCES),
    Family("MT5Config", "mt5", "block.{i}.layer.1.DenseReluDense.wo", T5_SIZES, note="gated"),
    Family("PegasusConfig", "pegasus", "layers.{i}.fc2", SEQUENCES),
    Family("T5Config", "t5", "block.{i}.layer.1.DenseReluDense.wo", T5_SIZES),
)
KINDS = (
    (
        "Decoders",
        "Embeddings, activations and gradients; the models write after a prompt. `{i}` is the layer's number.",
        DECODERS,
    ),
    (
        "Encoders",
        "Embeddings and activations of given texts, and gradients of the token at each masked position. A checkpoint without a\n"
        "masked language model's head (a sentence encoder, ELECTRA's discriminator) gives embeddings and activations.",
        MASKED,
    ),
    (
        "Encoder–decoders",
        "Embeddings and activations of the encoder, of given texts. What the decoder does is not recorded.",
        ENCODER_DECODERS,
    ),
)
"""A title, what is recorded, and which: the sections of docs/models.md."""

REFUSED: dict[str, dict[str, Any]] = {
    "DeepseekV3Config": {
        "n_routed_experts": 4, "first_k_dense_replace": 1, "moe_intermediate_size": 8, "n_group": 1, "topk_group": 1,
        "num_experts_per_tok": 2,
    },
    "Gemma4TextConfig": {
        **WIDE_HEADS, "hidden_size_per_layer_input": 0, "sliding_window": 8, "enable_moe_block": True, "num_experts": 4,
        "top_k_experts": 2, "moe_intermediate_size": 8,
    },
    "GptOssConfig": {**WIDE_HEADS, "num_local_experts": 4},
    "GraniteMoeConfig": {**GROUPED, "num_local_experts": 4},
    "GraniteMoeHybridConfig": {
        **GROUPED, "num_local_experts": 4, "shared_intermediate_size": 24, "mamba_n_heads": 8, "mamba_d_head": 4,
        "layer_types": ["attention", "attention"],
    },
    "GraniteMoeSWAConfig": {**GROUPED, "num_local_experts": 4, "shared_intermediate_size": 24},
    "GraniteMoeSharedConfig": {**GROUPED, "num_local_experts": 4, "shared_intermediate_size": 24},
    "Llama4TextConfig": {**WIDE_HEADS, "num_local_experts": 4},
    "MixtralConfig": {**GROUPED, "num_local_experts": 4},
    "NllbMoeConfig": {**SEQUENCES, "num_experts": 4, "encoder_sparse_step": 2},
    "OlmoeConfig": {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2},
    "PhimoeConfig": {**GROUPED, "num_local_experts": 4},
    "Qwen2MoeConfig": {**GROUPED, "num_experts": 4, "moe_intermediate_size": 8},
    "Qwen3MoeConfig": {**WIDE_HEADS, "num_experts": 4, "moe_intermediate_size": 8, "num_experts_per_tok": 2},
    "SwitchTransformersConfig": {**T5_SIZES, "num_experts": 4, "num_sparse_encoder_layers": 1},
}  # fmt: skip
"""Mixtures of experts, with four of them."""

REFUSED_SAID = """Mixtures of experts: a token passes through the few experts that it is routed to, so no neuron has an
activation at every position, which is what `activation_vectors` holds; and of most of them transformers keeps the
experts' weights stacked in one tensor, where there is no module to read. Where all tokens share one expert, or a dense FFNN
beside the experts, its activations would be only a part of what the FFNNs do: such models are refused too, with `--ffn` as
without.

Quantized linear maps (the proof multiplies by the weight); blocks without an FFNN (Mamba); and decoders that padding at the
left changes (RecurrentGemma, XLM-RoBERTa as a decoder), because a batch of them would not be continued as each text alone."""
