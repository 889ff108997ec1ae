"""nnU-Net's prediction with a results folder in one process, as ``nnUNetv2_predict -npp 0 -nps 0``.

    python predict_model_peer.py -m FOLDER -i IMAGES -o MASKS -f FOLD ... [--disable_tta]

nnU-Net's command for a folder does not accept zero processes. Needs nnunetv2, and nothing from this project.
"""

import argparse
import importlib
import os

import torch


def main() -> None:
    """Predict all images of a folder."""
    parser = argparse.ArgumentParser()
    for name in "mio":
        parser.add_argument(f"-{name}", required=True)
    parser.add_argument("-f", nargs="+", required=True)
    parser.add_argument("-prev_stage_predictions")
    parser.add_argument("--disable_tta", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    inference = importlib.import_module("nnunetv2.inference.predict_from_raw_data")
    predictor = inference.nnUNetPredictor(
        use_mirroring=not given.disable_tta, device=torch.device("cpu"), allow_tqdm=False
    )
    os.makedirs(given.o, exist_ok=True)
    folds = tuple(int(fold) if fold.isdigit() else fold for fold in given.f)
    predictor.initialize_from_trained_model_folder(given.m, folds, "checkpoint_final.pth")
    predictor.predict_from_files_sequential(
        given.i,
        given.o,
        save_probabilities=False,
        overwrite=True,
        folder_with_segs_from_prev_stage=given.prev_stage_predictions,
    )


if __name__ == "__main__":
    main()
