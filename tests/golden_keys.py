"""A few released key names of every kind of layer in Wan2.1_VAE.pth."""

VAE_KEYS = {
    "encoder.conv1.weight", "encoder.downsamples.0.residual.0.gamma", "encoder.downsamples.2.resample.1.weight", "encoder.downsamples.3.shortcut.bias",
    "encoder.downsamples.5.time_conv.weight", "encoder.middle.1.norm.gamma", "encoder.middle.1.to_qkv.weight", "encoder.head.2.bias", "conv1.weight",
    "conv2.bias", "decoder.conv1.weight", "decoder.middle.2.residual.6.weight", "decoder.upsamples.3.time_conv.bias", "decoder.upsamples.4.shortcut.weight",
    "decoder.upsamples.11.resample.1.weight", "decoder.upsamples.14.residual.6.bias", "decoder.head.0.gamma",
}  # fmt: skip
