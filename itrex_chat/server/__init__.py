"""The server: OpenAI's API over HTTP, on the scheduler of each model that is loaded.

`app.py` has the routes, `driver.py` the thread that makes a model's passes, `models.py` which models are loaded, `safety.py`
what is refused before a route sees it.
"""
