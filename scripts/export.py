"""Write a model as TorchScript, ONNX, a TensorRT engine or a results folder of nnU-Net: ``dynunet-bundle export``."""

from dynunet_bundle.commands.main import run_script

if __name__ == "__main__":
    run_script("export")
