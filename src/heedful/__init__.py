"""heedful: the whole InstructGPT system (Ouyang et al. 2022) in one install."""

__version__ = "0.1.0"
