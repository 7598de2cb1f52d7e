"""Which view of the tokens a family reads, and whether the tokens have it."""

from genlab.config import GenlabError
from genlab.decoders.cost import abstract_decoder
from genlab.decoders.task import DecoderConfig, Task


def check_view(name: str, decoder: DecoderConfig, task: Task) -> None:
    """Refuse a decoder of latents for tokens that have none; `name` says whose it is.

    Raises:
        GenlabError: that says what is missing.
    """
    if task.spec.latent_channels:
        return
    # A network over no channels cannot be made, so one channel stands in for them.
    spec = task.spec.model_copy(update={"latent_channels": 1})
    if abstract_decoder(decoder, task._replace(spec=spec, code_vectors=None)).reads == "latents":
        raise GenlabError(
            f"{name}: decoder.kind={decoder.kind!r} predicts latents, and these tokens are codes "
            "alone; give their code vectors (code_vectors in tokens.json), name the codec that "
            "made them (data.codec), or leave that arm out"
        )
