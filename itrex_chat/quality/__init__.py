"""What quantization costs, measured on token ids that both variants are forced to follow.

`passages` says which tokens, `distributions` keeps and compares what a model
predicts for them, `scoring` does that in a worker, `store` keeps the results,
`metrics` and `intervals` make figures of them, `measuring` is the way through.
Method: llama.cpp's `llama-perplexity --kl-divergence`.
"""
