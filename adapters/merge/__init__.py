"""From a base and adapters to a folder of merged weights, a shard at a time; needs torch and safetensors.

    checkpoint -> recipes (the base as the adapter knew it) -> changes (in float32) -> encodings -> shards

Nothing here holds a whole model, and no live quantized module is ever merged into.
"""
