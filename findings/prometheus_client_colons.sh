#!/usr/bin/env bash
# prometheus-client 0.26.0: a metric with a colon in its name, as vLLM's, has another name for scrapers that ask for OpenMetrics 1.0.
#
# Colons are legal in metric names of both text formats, and vllm:prompt_tokens_total is what boards ask for. The library
# writes it so as plain text. To "Accept: application/openmetrics-text;version=1.0.0", which older Prometheus servers send
# first, it answers with samples named vllm_prompt_tokens_total, under a TYPE line that keeps the colon: the board's queries
# find nothing, and nothing fails. With "escaping=allow-utf-8" in the header the name stays.
#
# Seen: text/plain: vllm:prompt_tokens_total. OpenMetrics 1.0.0: vllm_prompt_tokens_total. with allow-utf-8: vllm:prompt_tokens_total.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "prometheus-client==0.26.0"
cat > "$work/names.py" <<'PYTHON'
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.exposition import choose_encoder

registry = CollectorRegistry()
Counter("vllm:prompt_tokens", "Tokens of prompts.", registry=registry).inc(3)


def name_for(accept):
    encode, _ = choose_encoder(accept)
    lines = encode(registry).decode().splitlines()
    return next(line.split()[0] for line in lines if line.endswith(" 3.0"))


open_metrics = "application/openmetrics-text;version=1.0.0"
found = [name_for(accept) for accept in ("text/plain", open_metrics, f"{open_metrics};escaping=allow-utf-8")]
print(f"text/plain: {found[0]}. OpenMetrics 1.0.0: {found[1]}. with allow-utf-8: {found[2]}.")
colon = "vllm:prompt_tokens_total"
assert found == [colon, colon.replace(":", "_"), colon], "CHANGED"
PYTHON
"$work/venv/bin/python" "$work/names.py"
echo "as described: the name depends on what the scraper accepts"
