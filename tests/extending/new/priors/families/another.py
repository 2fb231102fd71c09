"""A checkpoint family: those of another program."""

from facesieve.priors.families import FAMILIES, Family

CONFIG = {
    "sample_size": 16,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "norm_num_groups": 4,
}


def recognises(state):
    return "denoiser.conv_in.weight" in state


def convert(state):
    return CONFIG, {key.removeprefix("denoiser."): value for key, value in state.items()}


FAMILIES.register("another", Family("another program", recognises, convert, prediction="v_prediction"))
