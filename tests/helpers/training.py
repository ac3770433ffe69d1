"""What tests of the training share."""

from minicpmv.train.pretrain.options import PretrainOptions

TINY = PretrainOptions(
    size="micro",
    steps="1,2,1,1,1,1,1,1",
    warmup_steps=1,
    device="cpu",
    dtype="float32",
    compile=False,
    threads=1,
    workers=0,
    save_every=100,
    evaluate_every=100,
    log_every=1,
)
