"""Our metrics against lmms-eval 0.7.3: python -m tests.suites.evaluation.lmms_eval_metrics

    python -m venv oracle
    oracle/bin/pip install ".[eval]" lmms_eval==0.7.3
    oracle/bin/python -m tests.suites.evaluation.lmms_eval_metrics

The same drawn answers, thousands for each benchmark, are scored by lmms-eval's own functions and by
ours with its rules; every single score and every summary must be the same. Where lmms-eval draws
an answer at random, or asks GPT, it is stopped, and ours must say that nothing was read.
"""

import argparse
import sys

from .lmms_eval_oracle.choices import COMPARISONS as CHOICES
from .lmms_eval_oracle.short_answers import COMPARISONS as SHORT_ANSWERS


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="BENCHMARK", help="only these")
    parser.add_argument("--answers", type=int, default=3000, help="of each (default: 3000)")
    args = parser.parse_args()
    failed = False
    print(f"{'lmms-eval':32} {'our metric':16} {'answers':>7} {'not read':>8}  differ")
    for each in (*SHORT_ANSWERS, *CHOICES):
        if args.names and not any(each.name.startswith(name) for name in args.names):
            continue
        number, unread, faults = each.run(args.answers)
        failed |= bool(faults)
        print(f"{each.name:32} {each.metric:16} {number:>7} {unread:>8}  {len(faults)}", flush=True)
        for fault in faults[:5]:
            print(f"    {fault[:400]}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
