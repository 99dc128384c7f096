"""Tokens per parameter: how far a model is trained, in the unit of language models' laws."""


def tokens_per_parameter(images, tokens: float, parameters):
    """Tokens that a model has seen over its parameters. Arrays or numbers.

    Args:
        images: seen, counting repeats; tokens: of an image at the model's patch size, (resolution / patch)^2 of its input; masked
            variants count the whole image.
        parameters: all that the sampled model has, adaLN's modulation included, as papers count them (DiT-XL/2: 675 M). A plain
            transformer of the same compute, the N of C = 6 N D, has 1.39 to 1.50 times fewer: do not mix the two.
    """
    return images * tokens / parameters


def images_for(ratio, tokens: float, parameters):
    """Images at which a model has seen ``ratio`` tokens per parameter; the inverse of ``tokens_per_parameter``."""
    return ratio * parameters / tokens
