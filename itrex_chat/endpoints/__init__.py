"""Models behind an OpenAI-compatible endpoint: one more column of answers, or a judge.

Nothing is sent anywhere unless a user names an endpoint.
"""

ADDRESS, KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"  # the variables of the environment
