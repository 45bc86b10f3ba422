"""A judge behind a URL: a model on a server that speaks the chat completions of OpenAI rates an image for a prompt.

`settings.py` is the file that describes one, `client.py` asks and keeps answers, `answers.py` reads numbers out of
them, `reward.py` puts it behind the seam of all rewards (docs/REWARDS.md).
"""
