"""Loading, log-probabilities without logits, special tokens, dropout."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers import models as token_models
from torch.testing import assert_close
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from heedful.errors import ModelError
from heedful.models import output_head
from heedful.models.attention import Packed
from heedful.models.device import pick_dtype
from heedful.models.language_model import (
    PAD_TOKEN,
    cast_weights,
    fit_vocabulary,
    hidden_states,
    load_language_model,
    load_tokenizer,
    new_language_model,
    num_parameters,
    read_lineage,
    require_same_tokenizer,
    set_residual_dropout,
)
from heedful.models.output_head import logits, token_logprobs, token_loss

SMALL = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
SMALL |= {"intermediate_size": 64, "initializer_range": 0.2, "pad_token_id": 1}
HEADS = {
    "plain": transformers.LlamaConfig(**SMALL),
    "soft cap": transformers.Gemma2Config(
        **SMALL, num_key_value_heads=2, head_dim=8, final_logit_softcapping=1.5
    ),
    "multiplied": transformers.CohereConfig(**SMALL, logit_scale=0.25),
    "divided": transformers.GraniteConfig(**SMALL, logits_scaling=4.0),
    "bias": transformers.PhiConfig(**SMALL),
}


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
# Rows of logits at a time, of their gradient at a time: all, 7 and all, 7 and 14, 7 and 7.
@pytest.mark.parametrize(
    ("cells", "num_bytes"), [(2**22, 2**22), (700, 2**22), (700, 14 * 400), (700, 0)]
)
def test_a_token_loss_and_its_gradients_are_those_of_the_librarys_logits(
    head, temperature, cells, num_bytes, monkeypatch
):
    """A loss of its own for every token; the oracle is the library's pass and log_softmax."""
    monkeypatch.setattr(output_head, "LOGIT_CELLS", cells)
    monkeypatch.setattr(output_head, "GRADIENT_BYTES", num_bytes)
    model = new_language_model(HEADS[head], seed=0)
    output = model.get_output_embeddings()
    if head == "bias":
        output.bias.data.normal_(generator=torch.Generator().manual_seed(1))
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(2, 100, (20,), generator=generator)
    targets = torch.randint(0, 100, (20,), generator=generator)
    weights = torch.randn(20, generator=generator)

    # the oracle: the library's whole forward pass, on its own attention, and log_softmax
    model.set_attn_implementation("eager")
    z = model(input_ids=tokens[None]).logits[0]
    oracle = torch.log_softmax(z.double() / temperature, -1).gather(1, targets[:, None])[:, 0]
    total = (weights * oracle + 0.1 * oracle.square()).sum()
    (3.0 * total).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    model.set_attn_implementation("heedful")
    hidden = hidden_states(model, tokens, Packed([20]))
    assert_close(logits(output_head.output_head(model), hidden), z, rtol=1e-4, atol=1e-5)

    def loss_of(some, part):
        return (weights[part] * some + 0.1 * some.square()).sum()

    loss, logprobs = token_loss(model, hidden, targets, loss_of, temperature)
    assert_close(logprobs, oracle.float(), rtol=1e-4, atol=1e-5)
    assert_close(loss, total.float(), rtol=1e-4, atol=1e-5)
    found = token_logprobs(model, hidden, targets, temperature)
    assert_close(found, oracle.float(), rtol=1e-4, atol=1e-5)
    assert not logprobs.requires_grad and not found.requires_grad
    (3.0 * loss).backward()
    for name, parameter in model.named_parameters():
        scale = expected[name].abs().max()
        assert_close(parameter.grad / scale, expected[name] / scale, rtol=0, atol=2e-5, msg=name)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("rows", [1, 10**6])  # prepacked, and not
@pytest.mark.parametrize("num_bytes", [2**22, 14 * 200])
def test_the_gradients_of_a_head_in_bf16_are_those_of_its_numbers(
    head, rows, num_bytes, monkeypatch
):
    """Against log_softmax in fp64; factors are bf16, so an error of 2^-9 is that of rounding."""
    monkeypatch.setattr(output_head, "LOGIT_CELLS", 700)
    monkeypatch.setattr(output_head, "GRADIENT_BYTES", num_bytes)
    monkeypatch.setattr(output_head, "PREPACK_ROWS", rows)
    monkeypatch.setattr(output_head, "PREPACK_CELLS", 64 * 32)  # in two parts
    model = new_language_model(HEADS[head], seed=0, dtype=torch.bfloat16)
    output, transform = model.get_output_embeddings(), output_head.logit_transform(model.config)
    generator = torch.Generator().manual_seed(2)
    inputs = [output.weight]
    if output.bias is not None:
        output.bias.data.normal_(generator=generator)
        inputs.append(output.bias)
    hidden = torch.randn(50, 32, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(0, 100, (50,), generator=generator)
    weights = torch.randn(50, generator=generator)
    inputs.insert(0, hidden)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    z = exact[0] @ exact[1].T * transform.scale
    if output.bias is not None:
        z = z + exact[2]
    if transform.softcap is not None:
        z = transform.softcap * torch.tanh(z / transform.softcap)
    oracle = z.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    (weights * oracle).sum().backward()

    loss, logprobs = token_loss(
        model, hidden, targets, lambda some, part: (weights[part] * some).sum()
    )
    loss.backward()
    assert_close(logprobs.double(), oracle.detach(), rtol=0, atol=1e-5)
    for x, expected in zip(inputs, exact, strict=True):
        assert x.grad.dtype == torch.bfloat16
        error = (x.grad.double() - expected.grad).norm() / expected.grad.norm()
        assert float(error) < 2**-8


def test_chunked_backward_against_finite_differences(monkeypatch):
    """Central differences in fp32, steps of 1e-2: second order, so within 1e-3."""
    monkeypatch.setattr(output_head, "LOGIT_CELLS", 15)
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 3, generator=generator).requires_grad_() for n in (4, 5))
    bias = torch.randn(5, generator=generator).requires_grad_()
    targets = torch.tensor([0, 4, 2, 2])

    def loss_of(logprobs, part):
        return (logprobs * torch.arange(1.0, 5.0)[part]).sum()

    def total(*inputs):
        arguments = (*inputs, targets, output_head.Transform(0.5, 1.7, 0.8), loss_of)
        return output_head._TokenLoss.apply(*arguments)[0]

    total(hidden, weight, bias).backward()
    for index, x in enumerate((hidden, weight, bias)):
        for cell in range(x.numel()):
            inputs = [hidden.detach(), weight.detach(), bias.detach()]
            values = []
            for step in (1e-2, -1e-2):
                moved = inputs[index].clone()
                moved.view(-1)[cell] += step
                values.append(float(total(*inputs[:index], moved, *inputs[index + 1 :])))
            slope = (values[0] - values[1]) / 2e-2
            assert float(x.grad.view(-1)[cell]) == pytest.approx(slope, abs=1e-3)


def test_a_frozen_head_gets_no_gradient_and_the_states_below_it_do():
    model = new_language_model(HEADS["plain"], seed=0)
    model.get_output_embeddings().weight.requires_grad_(False)
    tokens = torch.arange(2, 6)
    hidden = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    token_loss(model, hidden, tokens, lambda some, _: some.sum())[0].backward()
    assert model.get_output_embeddings().weight.grad is None
    z = hidden.detach() @ model.get_output_embeddings().weight.T
    slope = torch.nn.functional.one_hot(tokens, 100) - z.softmax(-1)
    expected = slope @ model.get_output_embeddings().weight
    assert_close(hidden.grad, expected, rtol=1e-4, atol=1e-6)


def test_a_token_loss_of_no_tokens_is_nothing():
    model = new_language_model(HEADS["plain"], seed=0)
    hidden, targets = torch.zeros(0, 32, requires_grad=True), torch.zeros(0, dtype=torch.long)
    loss, logprobs = token_loss(model, hidden, targets, lambda some, _: some.sum())
    loss.backward()
    assert loss.item() == 0.0 and logprobs.shape == (0,) and hidden.grad.shape == (0, 32)


def test_the_head_learns_from_states_that_do_not():
    model = new_language_model(HEADS["plain"], seed=0)
    hidden, targets = torch.randn(4, 32), torch.arange(2, 6)
    token_loss(model, hidden, targets, lambda some, _: some.sum())[0].backward()
    weight = model.get_output_embeddings().weight
    slope = torch.nn.functional.one_hot(targets, 100) - (hidden @ weight.T).softmax(-1)
    assert_close(weight.grad, slope.T @ hidden, rtol=1e-4, atol=1e-5)


def test_a_token_loss_says_where_it_cannot_be_learned_from():
    model = new_language_model(HEADS["plain"], seed=0)
    hidden, targets = torch.randn(4, 32), torch.arange(2, 6)
    with torch.no_grad(), pytest.raises(RuntimeError, match="token_logprobs"):
        token_loss(model, hidden, targets, lambda some, _: some.sum())
    loss, _ = token_loss(model, hidden, targets, lambda some, _: some.sum())
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="once"):
        loss.backward()


@pytest.mark.parametrize(
    ("length", "most"), [(0, 3), (1, 3), (3, 3), (4, 3), (10, 3), (2098, 2097)]
)
def test_slices_are_few_and_of_one_length(length, most):
    slices = list(output_head._slices(7, 7 + length, most))
    assert [i for part in slices for i in range(part.start, part.stop)] == list(
        range(7, 7 + length)
    )
    sizes = [part.stop - part.start for part in slices]
    assert len(sizes) == -(-length // most)
    assert max(sizes, default=0) == -(-length // max(1, len(sizes)))  # no last one of a few


def save(directory, model, tokenizer):
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def test_a_saved_model_loads_with_the_same_weights(tiny_model, tokenizer, tmp_path):
    model = tiny_model("qwen3")
    loaded = load_language_model(save(tmp_path, model, tokenizer))
    for (name, mine), other in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(mine, other), name
    assert not loaded.training
    assert loaded.config._attn_implementation == "heedful"
    assert load_tokenizer(tmp_path).get_vocab() == tokenizer.get_vocab()


def tokenizer_without_pad(**special):
    words = Tokenizer(token_models.WordLevel({"<eos>": 0, "a": 1, "b": 2}, unk_token="a"))
    return PreTrainedTokenizerFast(tokenizer_object=words, **special)


@pytest.mark.parametrize("special", [{}, {"pad_token": "<eos>"}], ids=["none", "EOS"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_pad_is_never_eos(tiny_model, tmp_path, special, architecture):
    model = tiny_model(architecture, vocab_size=3, pad_token_id=0 if special else None)
    save(tmp_path / "foreign", model, tokenizer_without_pad(eos_token="<eos>", **special))

    tokenizer = load_tokenizer(tmp_path / "foreign")
    model = load_language_model(tmp_path / "foreign")
    before = model.get_input_embeddings().weight[:3].detach().clone()
    fit_vocabulary(model, tokenizer)
    assert (tokenizer.pad_token, tokenizer.pad_token_id) == (PAD_TOKEN, 3)
    assert tokenizer.eos_token_id == 0
    assert model.get_input_embeddings().weight.shape[0] == 4
    assert torch.equal(model.get_input_embeddings().weight[:3], before)
    assert (model.config.pad_token_id, model.config.eos_token_id) == (3, 0)

    # EOS is a token like any other: its embedding learns
    hidden_states(model, torch.tensor([1, 0, 2]), Packed([3])).square().sum().backward()
    assert float(model.get_input_embeddings().weight.grad[0].abs().sum()) > 0

    save(tmp_path / "ours", model, tokenizer)
    again = load_tokenizer(tmp_path / "ours")
    assert (again.pad_token_id, again.eos_token_id, len(again)) == (3, 0, 4)
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert (reloaded.config.pad_token_id, reloaded.generation_config.pad_token_id) == (3, 3)
    assert reloaded.get_input_embeddings().weight.shape[0] == 4


def test_a_tokenizer_without_eos_is_refused(tmp_path):
    tokenizer_without_pad(pad_token="b").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="no EOS token: set eos_token"):
        load_tokenizer(tmp_path)


def test_a_different_tokenizer_is_named(tokenizer):
    require_same_tokenizer(tokenizer, tokenizer, ("policy", "reward model"))
    with pytest.raises(ModelError, match=r"policy and reward model have different .*100 and 3"):
        other = tokenizer_without_pad(eos_token="<eos>")
        require_same_tokenizer(tokenizer, other, ("policy", "reward model"))


def test_what_is_not_a_model_says_why(tiny_model, tokenizer, tmp_path):
    with pytest.raises(ModelError, match="missing does not exist: give a local"):
        load_language_model(tmp_path / "missing")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ModelError, match=r"no config.json in it \(it holds notes.txt\)"):
        load_language_model(tmp_path)
    with pytest.raises(ModelError, match=r"no tokenizer.json in it \(it holds notes.txt\)"):
        load_tokenizer(tmp_path)
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(ModelError, match=r"config.json cannot be read"):
        load_language_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match="causal language model"):
        load_language_model(tmp_path)
    shutil.rmtree(tmp_path)
    save(tmp_path, tiny_model(), tokenizer)
    (tmp_path / "model.safetensors").write_bytes(b"cut short")
    with pytest.raises(ModelError, match="could not be loaded"):
        load_language_model(tmp_path)
    save(tmp_path, tiny_model("llama", num_hidden_layers=1), tokenizer)
    (tmp_path / "config.json").write_text(tiny_model("llama").config.to_json_string())
    with pytest.raises(ModelError, match=r"weights lack model.layers.1.\S+, .* and \d+ more"):
        load_language_model(tmp_path)
    with pytest.raises(ModelError, match="not a directory"):
        load_tokenizer(tmp_path / "missing")


def test_casting_leaves_rotary_frequencies_alone(tiny_model):
    model = tiny_model("llama")
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    cast_weights(model, torch.bfloat16)
    assert model.dtype == torch.bfloat16
    assert before
    for name, buffer in model.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_weights_follow_the_seed(tiny_config):
    first, again, other = (new_language_model(tiny_config(), seed) for seed in (3, 3, 4))
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


EXPERTS = {"moe_intermediate_size": 64, "num_experts": 4, "num_experts_per_tok": 2}
OWN = {"hidden_dropout": 0.3, "attention_dropout": 0.3}
OTHERS = {
    "opt": transformers.OPTConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64,
        max_position_embeddings=64, dropout=0.3, attention_dropout=0.3,
    ),
    "gpt_neox": transformers.GPTNeoXConfig(**SMALL, **OWN, max_position_embeddings=64),
    "mixtral": transformers.MixtralConfig(**SMALL, num_key_value_heads=2, num_local_experts=4),
    "qwen3_moe": transformers.Qwen3MoeConfig(**SMALL, **EXPERTS, num_key_value_heads=2, head_dim=8),
    "granitemoe": transformers.GraniteMoeConfig(
        **SMALL, num_key_value_heads=2, num_local_experts=4
    ),
}  # fmt: skip


def residual_stream(model) -> tuple[torch.Tensor, torch.Tensor]:
    """What goes into the first layer, and what comes out of the last."""
    body = getattr(model.base_model, "decoder", model.base_model)
    layers, seen = getattr(body, "layers", None) or body.h, []
    hooks = [
        layers[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0])),
        layers[-1].register_forward_hook(lambda module, inputs, output: seen.append(output)),
    ]
    hidden_states(model, torch.arange(2, 22), Packed([20]))
    for hook in hooks:
        hook.remove()
    return seen[0].flatten(), seen[1].flatten()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", *OTHERS])
def test_dropout_reaches_every_block_of_every_family(tiny_config, architecture):
    """At p = 1 no block adds anything: the layers hand on what they were given."""
    config = OTHERS.get(architecture) or tiny_config(architecture)
    model = new_language_model(config, seed=0)
    before, after = residual_stream(model)
    assert not torch.allclose(before, after)
    set_residual_dropout(model, 1.0)
    assert torch.equal(residual_stream(model)[1], after)
    model.train()
    assert torch.equal(*residual_stream(model))


@pytest.mark.parametrize("architecture", OTHERS)
def test_dropout_of_the_models_own_is_off(architecture):
    model = new_language_model(OTHERS[architecture], seed=0)
    expected = residual_stream(model)[1]
    set_residual_dropout(model, 0.0)
    model.train()
    assert_close(residual_stream(model)[1], expected)


def test_dropout_where_the_blocks_are_not_known_is_refused():
    sizes = SMALL | {"num_key_value_heads": 2, "kv_channels": 8, "num_local_experts": 2}
    config = transformers.JetMoeConfig(**sizes)
    model = new_language_model(config, seed=0)
    with pytest.raises(ModelError, match=r"not supported for JetMoeForCausalLM.* Set dropout = 0"):
        set_residual_dropout(model, 0.2)
    set_residual_dropout(model, 0.0)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen3", "gemma3"])
def test_residual_dropout_is_on_in_training_and_off_otherwise(tiny_model, architecture):
    model = tiny_model(architecture)
    tokens, layout = torch.arange(2, 22), Packed([20])
    before = hidden_states(model, tokens, layout)
    set_residual_dropout(model, 0.5)
    assert torch.equal(hidden_states(model, tokens, layout), before)
    model.train()
    torch.manual_seed(0)
    first, second = (hidden_states(model, tokens, layout) for _ in range(2))
    assert not torch.allclose(first, second)
    torch.manual_seed(0)
    assert torch.equal(hidden_states(model, tokens, layout), first)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_residual_dropout_zeroes_its_share_of_every_block(tiny_model, architecture):
    """The output of the last MLP is zero at about p of its cells, the rest is scaled up."""
    model = tiny_model(architecture)
    set_residual_dropout(model, 0.2)
    layers = model.base_model.layers if architecture == "llama" else model.base_model.h
    seen = []
    layers[-1].mlp.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model.train()
    hidden_states(model, torch.arange(2, 62), Packed([60]))
    model.eval()
    hidden_states(model, torch.arange(2, 62), Packed([60]))
    share = float((seen[0] == 0).float().mean())
    assert 0.15 < share < 0.25
    assert not bool((seen[1] == 0).any())


def test_zero_dropout_silences_a_model_that_has_its_own(tiny_model):
    model = tiny_model("gpt2", resid_pdrop=0.3, attn_pdrop=0.3, embd_pdrop=0.3)
    set_residual_dropout(model, 0.0)
    model.train()
    tokens, layout = torch.arange(2, 22), Packed([20])
    first, second = (hidden_states(model, tokens, layout) for _ in range(2))
    assert torch.equal(first, second)


def test_dtype_by_name():
    assert pick_dtype("float32") == torch.float32
    assert pick_dtype("bfloat16") == torch.bfloat16
    assert pick_dtype("auto") in (torch.float32, torch.bfloat16)


def test_parameters_are_counted_once(tiny_config):
    tied = new_language_model(tiny_config(tie_word_embeddings=True), 0)
    untied = new_language_model(tiny_config(tie_word_embeddings=False), 0)
    assert num_parameters(untied) - num_parameters(tied) == 100 * 32


def test_lineage_of_a_foreign_model_is_empty(tmp_path):
    assert read_lineage(tmp_path) == {}
    (tmp_path / "heedful.json").write_text('{"step": "sft"}')
    assert read_lineage(tmp_path) == {"step": "sft"}


def test_architectures_that_leak_between_packed_sequences_are_refused(tmp_path):
    from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig

    small = {"hidden_size": 32, "vocab_size": 60}
    kinds = {
        "mamba": MambaConfig(**small, num_hidden_layers=2, pad_token_id=0),
        "bloom": BloomConfig(**small, n_layer=2, n_head=2),
    }
    for name, config in kinds.items():
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / name)
        with pytest.raises(ModelError, match="not supported"):
            load_language_model(tmp_path / name)


def test_a_new_token_is_no_likely_one_where_all_logits_are_low(tiny_model, tokenizer):
    model = tiny_model("gpt2")
    known = model.get_input_embeddings().num_embeddings
    with torch.no_grad():  # every hidden state has a large first part; every known row opposes it
        model.base_model.ln_f.bias[0] += 30.0
        model.get_output_embeddings().weight[:, 0] -= 1.0
    tokenizer = copy.deepcopy(tokenizer)  # the fixture is shared
    tokenizer.add_tokens([f"<new{i}>" for i in range(known - len(tokenizer) + 1)])
    fit_vocabulary(model, tokenizer)
    layout = Packed([3])
    hidden = hidden_states(model, torch.tensor([1, 2, 3]), layout)
    probabilities = logits(output_head.output_head(model), hidden).softmax(-1)
    assert float(probabilities.detach()[:, known:].max()) < 0.2


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("cells", [2**24, 200])  # at once, and by a few rows
def test_a_prepacked_head_is_made_of_bf16_weights_and_loses_no_digits(head, cells, monkeypatch):
    monkeypatch.setattr(output_head, "PREPACK_CELLS", cells)
    model = new_language_model(HEADS[head], seed=0).to(torch.bfloat16)
    output = model.get_output_embeddings()
    if head == "bias":
        output.bias.data.normal_(generator=torch.Generator().manual_seed(1))
    transform = output_head.logit_transform(model.config)
    for rows in (1, 5, 33):
        hidden = torch.randn(rows, output.in_features).to(torch.bfloat16)
        z = hidden.double() @ output.weight.double().T
        if output.bias is not None:
            z += output.bias.double()
        z *= transform.scale
        if transform.softcap is not None:
            z = transform.softcap * torch.tanh(z / transform.softcap)
        packed = output_head.prepacked_head(model)
        assert packed.is_prepacked and not output_head.output_head(model).is_prepacked
        assert (len(packed.parts) > 1) == (cells == 200)
        with torch.no_grad():
            assert_close(logits(packed, hidden), z.float(), rtol=1e-5, atol=1e-5)
