"""Names of metrics, what they say, and every value that their labels may have."""

FINISH_REASONS = ("stop", "length", "time")

# By name: labels, and what it counts.
COUNTERS: dict[str, tuple[tuple[str, ...], str]] = {
    "prompt_tokens": (("model_name",), "Tokens of prompts, those of pictures among them."),
    "generation_tokens": (("model_name",), "Tokens of answers."),
    "request_success": (("model_name", "finished_reason"), "Answers that are complete."),
    "request_errors": (("code",), "Requests that ended with an error, or whose client went."),
    "ignored_parameters": (("name",), "Fields that --lenient dropped."),
}

# By name: the kind of its buckets, and what it measures.
HISTOGRAMS = {
    "time_to_first_token_seconds": ("wait", "From the arrival to the first text of an answer."),
    "inter_token_latency_seconds": ("token", "Between two pieces of text of one answer."),
    "request_time_per_output_token_seconds": ("token", "Per token after the first, by answer."),
    "e2e_request_latency_seconds": ("request", "From the arrival to the end of an answer."),
    "request_queue_time_seconds": ("request", "In the queue of the engine."),
    "request_prefill_time_seconds": ("request", "From the queue to the first token."),
    "request_decode_time_seconds": ("request", "From the first token to the last."),
    "request_prompt_tokens": ("tokens", "Tokens of a prompt."),
    "request_generation_tokens": ("tokens", "Tokens of an answer."),
}

_SLOW = (2.5, 5, 7.5, 10, 20, 40, 80)
# vLLM's borders, with finer ones below: a small model takes milliseconds where a large one takes
# tenths of a second.
BUCKETS: dict[str, tuple[float, ...]] = {
    "wait": (
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0),
        *(*_SLOW, 160, 640, 2560),
    ),
    "token": (
        *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5),
        *(0.75, 1.0, *_SLOW),
    ),
    "request": (
        *(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5, 10, 15, 20, 30, 40),
        *(50, 60, 120, 240, 480, 960, 1920, 7680),
    ),
    "tokens": (
        *(1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0),
        *(10000.0, 20000.0, 50000.0, 100000.0, 200000.0),
    ),
}

# Fields of the protocols, OpenAI's and the extensions of other servers, that this server may not
# know: what a lenient server drops is counted under these names.
_NAMES = """
    add_generation_prompt add_special_tokens allowed_token_ids audio background bad_words
    best_of cache_salt chat_template chat_template_kwargs container context context_management
    continue_final_message conversation documents echo enable_thinking format frequency_penalty
    function_call functions grammar guided_choice guided_decoding_backend guided_grammar
    guided_json guided_regex guided_whitespace_pattern ignore_eos include include_reasoning
    include_stop_str_in_output instructions keep_alive kv_transfer_params length_penalty
    logit_bias logits_processors logprob_token_ids logprobs max_completion_tokens
    max_output_tokens max_tokens max_tool_calls media_io_kwargs metadata min_p min_tokens
    mirostat mirostat_eta mirostat_tau mm_processor_kwargs modalities moderation n num_batch
    num_ctx num_gpu num_keep num_thread options output_config parallel_tool_calls
    penalize_newline prediction presence_penalty previous_response_id priority prompt
    prompt_cache_key prompt_cache_options prompt_cache_retention prompt_logprobs raw reasoning
    reasoning_effort repeat_last_n repeat_penalty repetition_detection repetition_penalty
    request_id response_format return_token_ids return_tokens_as_token_ids safety_identifier
    seed service_tier session_id skip_special_tokens spaces_between_special_tokens speed stop
    stop_sequences stop_token_ids store stream stream_interval stream_options structured_outputs
    suffix system temperature template text tfs_z think thinking tool_choice tools top_a top_k
    top_logprobs top_n top_p truncate_prompt_tokens truncation typical_p use_beam_search
    use_mmap user verbosity vllm_xargs web_search_options
"""
FIELDS = frozenset(_NAMES.split())
