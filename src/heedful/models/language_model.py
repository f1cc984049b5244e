"""Any Hugging Face causal LM as it is: loading, hidden states of packed rows, dropout, dtypes.

Shapes: T tokens of all sequences of a packed batch, D hidden size.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from heedful.errors import ModelError
from heedful.models import attention
from heedful.models.attention import Cached, Packed
from heedful.models.device import device_of, upload
from heedful.models.kind import read_config, require_language_model, require_tokenizer
from heedful.models.output_head import logits, output_head

PAD_TOKEN = "<|pad|>"
# Children of a layer whose outputs are added to the residual stream, by architecture; the last
# linear module of OPT's MLP, which is no module of its own, and a branch beside the experts.
ATTENTION_BLOCKS = ("self_attn", "attn", "attention")
MLP_BLOCKS = ("mlp", "fc2", "feed_forward", "block_sparse_moe", "shared_mlp")
# Largest difference of log-probabilities between packed sequences and the library's own pass.
PACKING_TOLERANCE = {torch.float32: 0.01, torch.float16: 0.3, torch.bfloat16: 0.5}


def load_language_model(
    path: Path | str, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> PreTrainedModel:
    """The causal LM of a local Hugging Face directory, on our attention, in eval mode.

    Raises ModelError where the directory is missing or is not a causal LM.
    """
    require_language_model(path)
    config = load_config(path)
    model = load_weights(AutoModelForCausalLM, path, config, dtype, "a causal language model")
    require_packing(model, str(path))
    return model.to(device)  # pyright: ignore[reportArgumentType]  (its hints know no strings)


@torch.no_grad()
def require_packing(model: PreTrainedModel, path: str) -> None:
    """Raises ModelError unless two packed sequences get the log-probabilities they get alone.

    Recurrent and convolution layers leak from one packed sequence into the next, and some
    architectures do not use the attention interface, or do more to their logits than we know of:
    they would be trained on nonsense. Compared on a few tokens with the library's own attention.
    """
    embeddings: Any = model.get_input_embeddings()
    rows = [[i % embeddings.num_embeddings for i in row] for row in ((3, 5, 7, 11, 13), (2, 4, 6))]
    what = f"{path}: {type(model).__name__} is not supported"
    if not getattr(model, "_supports_attention_backend", False):
        raise ModelError(f"{what}: it does not take its attention from transformers' interface")
    try:
        flat = torch.tensor([token for row in rows for token in row])
        hidden = hidden_states(model, flat, Packed([len(row) for row in rows]))
        some = hidden_states_at(model, flat, Packed([len(row) for row in rows]), torch.tensor([4]))
        hidden = torch.cat((hidden[:4], some, hidden[5:]))
        ours = logits(output_head(model), hidden)
        model.set_attn_implementation("eager")
        alone = [model(torch.tensor([row]), use_cache=False).logits[0] for row in rows]
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(f"{what}: it does not run on packed sequences ({error})") from error
    finally:
        model.set_attn_implementation(attention.NAME)
    theirs = torch.cat(alone).float()
    difference = (ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max()
    if float(difference) > PACKING_TOLERANCE[model.dtype]:
        raise ModelError(
            f"{what}: packed sequences change its log-probabilities by {float(difference):.2f}. "
            "Decoders with attention alone work (Llama, Qwen, Mistral, Gemma, GPT-2, OPT, Phi)"
        )


def load_weights(
    auto_class: Any,
    path: Path | str,
    config: Any,
    dtype: torch.dtype,
    what: str,
    new: frozenset[str] = frozenset(),
) -> PreTrainedModel:
    """The model of a directory in eval mode, every weight of it read from there but those ``new``.

    Without the check a weight that the files lack would be random, with no more than a warning.
    """
    try:
        model, info = auto_class.from_pretrained(
            str(path),
            config=config,
            dtype=dtype,
            attn_implementation=attention.NAME,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise ModelError(f"{path} could not be loaded as {what}: {error!r}") from error
    missing = sorted(set(info["missing_keys"]) - new)
    if missing:
        raise ModelError(
            f"{path} is not {what}: its weights lack {', '.join(missing[:3])}"
            f"{f' and {len(missing) - 3} more' if len(missing) > 3 else ''}"
        )
    return model.eval()


def load_config(path: Path | str) -> Any:
    """The configuration of a local Hugging Face directory; ModelError says what is missing."""
    read_config(path)
    try:
        return AutoConfig.from_pretrained(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path}/config.json cannot be read: {error}") from error


def new_language_model(
    config: Any, seed: int, dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """A causal LM of the given Hugging Face configuration with random weights, on our attention."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, attn_implementation=attention.NAME)
    cast_weights(model, dtype)
    return model.eval()


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Casts the weights in place, but no buffer: rotary frequencies would lose their positions."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)


def place(model: Any, dtype: torch.dtype, device: torch.device) -> None:
    """Casts the weights of a model as ``cast_weights`` does and moves it to a device, in place."""
    cast_weights(model, dtype)
    model.to(device)


def load_tokenizer(path: Path | str) -> Any:
    """The tokenizer of a model directory; it has an EOS token, and a pad token that is not EOS.

    A missing pad token, or one that equals EOS, is replaced by a new token (never by EOS: a masked
    EOS would mean a model that never learns to stop). ``fit_vocabulary`` makes room for it.
    """
    require_tokenizer(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{path} has no tokenizer that can be loaded: {error}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {path} has no EOS token: set eos_token in its tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        tokenizer.add_special_tokens({"pad_token": PAD_TOKEN})
    return tokenizer


def fit_vocabulary(model: PreTrainedModel, tokenizer: Any) -> None:
    """Widens the embeddings if the tokenizer has more tokens, and sets the model's special ids."""
    embeddings: Any = model.get_input_embeddings()
    known = embeddings.num_embeddings
    if len(tokenizer) > known:
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        embeddings = model.get_input_embeddings()
        _start_at_the_mean(embeddings, known)
        _start_at_the_mean(model.get_output_embeddings(), known)
    if getattr(embeddings, "padding_idx", None) is not None:
        # an embedding at padding_idx never learns: where it was EOS, EOS would not
        embeddings.padding_idx = tokenizer.pad_token_id
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.eos_token_id = tokenizer.eos_token_id
    if getattr(model, "generation_config", None) is not None:
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.generation_config.eos_token_id = tokenizer.eos_token_id


@torch.no_grad()
def _start_at_the_mean(embeddings: Any, known: int) -> None:
    """Sets the rows after the first ``known`` to their mean, so that a new token is no likely one.

    A random row gives a logit near 0, far above the others in models like GPT-2 whose logits are
    all well below it: the new token would take all the probability.
    """
    for weight in (getattr(embeddings, "weight", None), getattr(embeddings, "bias", None)):
        if weight is not None and len(weight) > known:
            weight[known:] = weight[:known].float().mean(0).to(weight.dtype)


def require_same_tokenizer(first: Any, second: Any, names: tuple[str, str]) -> None:
    """Raises ModelError unless both tokenizers map text to the same ids (design: one tokenizer)."""
    ours, theirs = first.get_vocab(), second.get_vocab()
    if ours == theirs:
        return
    different = sorted(set(ours.items()) ^ set(theirs.items()), key=lambda item: item[1])[:3]
    raise ModelError(
        f"{names[0]} and {names[1]} have different tokenizers ({len(ours)} and {len(theirs)} "
        f"tokens, first differences: {different}): both must come from the same base model"
    )


def body_of(model: PreTrainedModel) -> nn.Module:
    """The transformer below the output head."""
    return model.base_model


def hidden_states(model: PreTrainedModel, tokens: Tensor, layout: Packed | Cached) -> Tensor:
    """(T, D) final hidden states of a flat row of tokens (T,), on the model's device.

    The tokens may stand on the processor, and those of a batch do.
    """
    device = device_of(model)
    layout.place(device)
    output = body_of(model)(
        input_ids=upload(tokens, device)[None],
        position_ids=layout.position_ids,
        use_cache=False,
        layout=layout,
    )
    return output.last_hidden_state[0]


def hidden_states_at(
    model: PreTrainedModel, tokens: Tensor, layout: Packed | Cached, positions: Tensor
) -> Tensor:
    """(M, D) final hidden states of chosen positions (M,), for less work than those of all.

    The positions stand on the processor, as the tokens may, the states on the model's device.

    The last MLP mixes no positions, and nothing reads what it makes of the others: it is left out
    there. A sixth of a pass of four layers where one position of each sequence is wanted.
    """
    device, block = device_of(model), _last_mlp(model)
    chosen = torch.unique(positions)
    wanted = upload(positions, device)
    if block is None or len(chosen) == len(tokens):
        return hidden_states(model, tokens, layout).index_select(0, wanted)
    chosen = upload(chosen, device)

    def take(_block: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return inputs[0].index_select(1, chosen), *inputs[1:]

    def put_back(_block: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        shape = (1, len(tokens), output.shape[-1])
        return output.new_zeros(shape).index_copy(1, chosen, output)

    hooks = [block.register_forward_pre_hook(take), block.register_forward_hook(put_back)]
    try:
        return hidden_states(model, tokens, layout).index_select(0, wanted)
    finally:
        for hook in hooks:
            hook.remove()


def set_residual_dropout(model: PreTrainedModel, p: float) -> None:
    """Sets dropout on the output of every attention and MLP block (paper C.1: 0.2 in SFT).

    Dropout of the model's own is turned off. Raises ModelError where p is above 0 and the blocks of
    an architecture are not known.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):  # some layers have a number, not a module
            if name.endswith("dropout") and isinstance(value, float):
                setattr(module, name, 0.0)
    if p == 0.0:
        return

    def drop(module: nn.Module, _inputs: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (F.dropout(output[0], p, module.training), *output[1:])
        return F.dropout(output, p, module.training)

    for block in _residual_blocks(model):
        block.register_forward_hook(drop)


def _residual_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The modules whose outputs are added to the residual stream, by layer."""
    blocks = []
    for layer in _layers(model):
        children = layer.named_children()
        parts = {name: child for name, child in children if not isinstance(child, nn.ModuleList)}
        attention_blocks = [parts[name] for name in ATTENTION_BLOCKS if name in parts]
        mlp_blocks = [parts[name] for name in MLP_BLOCKS if name in parts]
        if not attention_blocks or not mlp_blocks:
            blocks = []
            break
        blocks += attention_blocks + mlp_blocks
    if not blocks:
        raise ModelError(
            f"residual dropout is not supported for {type(model).__name__}: its layers have no "
            "attention and MLP block by a known name. Set dropout = 0"
        )
    return blocks


def _last_mlp(model: PreTrainedModel) -> nn.Module | None:
    """The MLP of the last layer, None where it is not one module (OPT) or has experts."""
    layers = _layers(model)
    block = getattr(layers[-1], "mlp", None) if layers else None
    has_experts = block is not None and any(name == "experts" for name, _ in block.named_children())
    return None if has_experts else block


def _layers(model: PreTrainedModel) -> list[nn.Module]:
    """The layers in their order: the outermost list of that length (experts are lists as well)."""
    count = model.config.get_text_config().num_hidden_layers
    stacks = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == count)
    return list(next(stacks, ()))


def num_parameters(model: nn.Module) -> int:
    """The number of distinct parameters, embeddings included."""
    return sum(parameter.numel() for parameter in model.parameters())


def read_lineage(path: Path | str) -> dict[str, Any]:
    """The heedful.json beside a model (step, parent, data, config), empty for a foreign model."""
    file = Path(path) / "heedful.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
