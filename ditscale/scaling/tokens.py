"""Tokens per parameter: training length in the unit of language models' laws."""


def tokens_per_parameter(images, tokens: float, parameters):
    """Tokens seen by a model divided by its parameters. Arrays or numbers.

    Args:
        images: seen, counting repeats; tokens: per image at the model's patch size, (resolution / patch)^2 of its input; masked
            variants count the whole image.
        parameters: all parameters of the sampled model, including adaLN's modulation, as papers count them (DiT-XL/2: 675 M). A plain
            transformer of the same compute, the N of C = 6 N D, has 1.39 to 1.50 times fewer: do not mix the two counts.
    """
    return images * tokens / parameters


def images_for(ratio, tokens: float, parameters):
    """Images at which a model has seen ``ratio`` tokens per parameter; the inverse of ``tokens_per_parameter``."""
    return ratio * parameters / tokens
