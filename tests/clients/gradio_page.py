"""A chat page that Gradio makes of a server's address, asked as a browser asks it."""

import gradio
import gradio_client
from asked import ANSWER, BASE, MODEL, QUESTION


def test_the_page_answers():
    page = gradio.load_chat(f"{BASE}/", model=MODEL, token="none", api_name="chat")
    _app, address, _shared = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        said = gradio_client.Client(address, verbose=False).predict({"text": QUESTION, "files": []}, api_name="/chat")
    finally:
        page.close()
    assert str(said).startswith(ANSWER)
