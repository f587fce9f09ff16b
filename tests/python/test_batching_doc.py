"""The code in docs/batching.md, run as it stands there."""

from __future__ import annotations

import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

DOC = Path(__file__).resolve().parents[2] / "docs" / "batching.md"


def test_the_code_runs_and_the_reranker_serves_requests_of_many_threads(capsys):
    blocks = re.findall(r"^```python\n(.*?)^```", DOC.read_text(encoding="utf-8"), flags=re.S | re.M)
    assert len(blocks) == 4
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(DOC), "exec"), names)  # noqa: S102 - our own text
    assert capsys.readouterr().out.split("\n")[0] == "torch.Size([1, 4])"

    with warnings.catch_warnings():
        # Which HTTP library the client stands on is no concern of this test.
        warnings.simplefilter("ignore")
        from fastapi.testclient import TestClient

        client = TestClient(names["app"])
    encoder, tokens = names["encoder"], names["tokens"]
    texts = [f"text {'x' * (k % 7)} {k}" for k in range(24)]
    with torch.no_grad():
        wanted = [encoder(tokens("who " + text)).item() for text in texts]

    def ask(text):
        return client.get("/score", params={"query": "who", "text": text}).json()["score"]

    with client, ThreadPoolExecutor(8) as pool:
        for got, want in zip(pool.map(ask, texts), wanted):
            assert abs(got - want) < 1e-5
        ranked = client.get("/rank", params={"query": "who", "text": texts[:6]}).json()
        assert ranked == [text for _, text in sorted(zip(wanted, texts[:6]), reverse=True)]
        assert client.get("/stats").json()["requests"] == 30
