"""Several pictures and a conversation about them: pairs, few-shot prompts, videos."""
