"""Where inputs go when the weights are spread over devices, or wait on the CPU or the disk."""

import torch


class DeviceFromEmbeddingsMixin:
    """Mixin for the `device` of models spread over devices; list it before `PreTrainedModel`.

    transformers takes the device of the first parameter. In a model with pictures that is the
    vision tower's, which may lie on another device than the embeddings, or on none ("meta") while
    its weights wait on the CPU or the disk.
    """

    @property
    def device(self) -> torch.device:
        """The device that inputs are sent to: where the token embeddings are computed."""
        embeddings = self.get_input_embeddings()  # type: ignore[attr-defined]
        hook = getattr(embeddings, "_hf_hook", None)  # accelerate's; it knows better than a weight
        device = getattr(hook, "execution_device", None)
        return embeddings.weight.device if device is None else torch.device(device)
