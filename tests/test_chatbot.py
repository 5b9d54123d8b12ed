"""`build_chatbot`: the seeds' snippet with one import changed, ITREX's names, and refusals with a sentence."""

import pytest

from itrex_chat import GenerationConfig, MixedPrecisionConfig, PipelineConfig, RtnConfig, build_chatbot
from itrex_chat.artifacts import ArtifactStore
from itrex_chat.foundation.errors import GenerationError, ItrexChatError, RecipeError


@pytest.fixture
def chatbot(models):
    config = PipelineConfig(
        model_name_or_path=str(models("chatglm3")),
        optimization_config=RtnConfig(bits=4, compute_dtype="int8", weight_dtype="int4_fullrange"),
    )
    return build_chatbot(config)


def test_the_snippet_of_itrexs_users_works_and_fills_the_cache(chatbot):
    answer = chatbot.predict(query="你好", config=GenerationConfig(max_new_tokens=8))
    assert isinstance(answer, str)
    [artifact] = ArtifactStore().whole()
    assert artifact.manifest["content"] == {"weight_dtype": "int4_fullrange", "group_size": 32, "head": "int8"}
    assert chatbot.facts()["compute_dtype"] == "int8"


def test_a_second_chatbot_comes_from_the_cache(chatbot, models, monkeypatch):
    from itrex_chat.artifacts import writer

    monkeypatch.setattr(writer, "write", lambda *arguments: pytest.fail("quantized again"))
    again = build_chatbot(
        PipelineConfig(str(models("chatglm3")), RtnConfig(compute_dtype="int8", weight_dtype="int4_fullrange"))
    )
    config = GenerationConfig(max_new_tokens=8)
    assert again.predict("你好", config=config) == chatbot.predict("你好", config=config)


def test_streaming_gives_the_same_text_in_pieces(chatbot):
    config = GenerationConfig(max_new_tokens=12)
    assert "".join(chatbot.predict_stream("你好", config=config)) == chatbot.predict("你好", config=config)


def test_a_conversation_has_its_history(chatbot):
    config = GenerationConfig(max_new_tokens=4)
    messages = [
        {"role": "system", "content": "简短"},
        {"role": "user", "content": "你好"},
        {"role": "assistant", "content": "你好！"},
        {"role": "user", "content": "再见"},
    ]
    response = chatbot.chat(messages, config)
    assert response.prompt_tokens > chatbot.chat(messages[-1:], config).prompt_tokens
    assert str(response) == response.text and response.finish_reason in ("stop", "length")


def test_the_next_turn_of_a_conversation_reads_only_what_is_new(chatbot):
    config, messages = (
        GenerationConfig(max_new_tokens=12),
        [{"role": "user", "content": "你好，请介绍一下你自己。" * 5}],
    )
    first = chatbot.chat(messages, config)
    again = chatbot.chat(messages, config)
    assert again.token_ids == first.token_ids and again.cached_tokens == first.prompt_tokens - 1
    messages += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "再见"}]
    assert chatbot.chat(messages, config).cached_tokens >= first.prompt_tokens - 3


def test_an_answer_can_be_ended_and_steered(chatbot):
    messages = [{"role": "user", "content": "你好"}]
    config = GenerationConfig(max_new_tokens=8, repetition_penalty=0.8)
    plain = chatbot.chat(messages, config, logprobs=1)
    assert len(plain.logprobs) == plain.new_tokens and plain.logprobs[0].logprob <= 0
    other = chatbot.chat(messages, config, logit_bias={plain.token_ids[0]: -100})
    assert other.token_ids[:1] != plain.token_ids[:1]


def test_the_unquantized_variants_are_mixed_precision(models):
    for dtype, variant in (("float32", "fp32"), ("bfloat16", "bf16")):
        chatbot = build_chatbot(PipelineConfig(str(models("llama")), MixedPrecisionConfig(dtype=dtype)))
        assert chatbot.variant == variant
    assert PipelineConfig(str(models("llama"))).variant == "bf16"  # ITREX's default


def test_defaults_are_itrexs():
    config = RtnConfig()
    assert (config.quantization.weight_dtype, config.quantization.group_size, config.quantization.compute_dtype) == (
        "int4_clip",
        32,
        "fp32",
    )
    assert RtnConfig(bits=8).quantization.weight_dtype == "int8"
    assert GenerationConfig().max_new_tokens == 256
    assert (GenerationConfig().temperature, GenerationConfig().top_k, GenerationConfig().top_p) == (0.1, 40, 0.75)
    assert RtnConfig(llm_int8_skip_modules=["lm_head"]).quantization.head == "none"


def test_arguments_without_meaning_are_accepted_with_their_defaults(models):
    RtnConfig(mse_range=False, use_double_quant=False, sym=True, layer_wise=True, use_ggml=False, use_quant=True)
    PipelineConfig(str(models("llama")), device="cpu", tokenizer_name_or_path=None, plugins={}, task="")
    GenerationConfig(num_beams=1, use_cache=True, device="cpu", ipex_int8=False)


@pytest.mark.parametrize(
    "make, sentence",
    [
        (lambda: RtnConfig(bits=3), "RtnConfig: bits cannot be 3"),
        (lambda: RtnConfig(weight_dtype="nf4"), "cannot be 'nf4'"),
        (lambda: RtnConfig(bits=8, weight_dtype="int4_clip"), "does not have 8 bits"),
        (lambda: RtnConfig(group_size=-1), "group_size cannot be -1"),
        (lambda: RtnConfig(scale_dtype="bf16"), "scale_dtype cannot be 'bf16'"),
        (lambda: RtnConfig(sym=False), "sym=False is not supported"),
        (lambda: RtnConfig(use_neural_speed=True), "use_neural_speed"),
        (lambda: RtnConfig(group_sise=32), "no argument group_sise"),
        (lambda: PipelineConfig(device="cuda"), "device='cuda' is not supported"),
        (lambda: PipelineConfig(plugins={"tts": {"enable": True}}), "plugins"),
        (lambda: PipelineConfig(hf_endpoint_url="http://x"), "hf_endpoint_url"),
        (lambda: PipelineConfig(optimization_config="int4"), "optimization_config"),
        (lambda: PipelineConfig(model_name_or_path=7), "name or a path"),
        (lambda: PipelineConfig("./chatglm3-6"), "Did you mean chatglm3-6b"),
        (lambda: MixedPrecisionConfig("float16"), "cannot be 'float16'"),
        (lambda: GenerationConfig(num_beams=4), "num_beams=4 is not supported"),
        (lambda: GenerationConfig(max_tokens=4), "no argument max_tokens"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(make, sentence):
    with pytest.raises(ItrexChatError, match=sentence):
        make()


def test_a_question_that_is_no_text_is_refused(chatbot):
    with pytest.raises(GenerationError):
        chatbot.predict(None)


def test_public_names_are_there_and_only_these():
    import itrex_chat

    assert all(hasattr(itrex_chat, name) for name in itrex_chat.__all__)
    with pytest.raises(AttributeError):
        _ = itrex_chat.nothing
    assert issubclass(RecipeError, itrex_chat.ItrexChatError)
