"""Runs a bundle by MONAI's own runner, in a process of its own: BUNDLE WORK.

In WORK are `in/CASE/CONTRAST.nii.gz` and `window.npy`; `out/`, `logits.npy` of the window and
`probabilities.npy` of the case are written. It needs MONAI, and nothing of this package.
"""

import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")


def main(bundle: str, work: Path) -> None:
    """Run the bundle's own workflow, then its network alone."""
    import numpy as np
    import torch
    from monai.bundle.config_parser import ConfigParser
    from monai.bundle.scripts import run

    sys.path.insert(0, bundle)
    config = f"{bundle}/configs/inference.json"
    given = {
        "bundle_root": bundle,
        "dataset_dir": str(work / "in"),
        "output_dir": str(work / "out"),
    }
    run(config_file=config, meta_file=f"{bundle}/configs/metadata.json", **given)
    parser = ConfigParser()
    parser.read_config(config)
    parser.update(given | {"device": "$torch.device('cpu')"})
    parser.get_parsed_content("load")
    network = parser.get_parsed_content("network")
    image = parser.get_parsed_content("dataset")[0]["image"].as_tensor()
    logits = parser.get_parsed_content("inferer")(image[None], network)[0]
    is_regions = "sigmoid" in parser["postprocessing"]["transforms"][0]
    probabilities = logits.sigmoid() if is_regions else logits.softmax(dim=0)
    np.save(work / "probabilities.npy", probabilities.numpy())
    window = torch.from_numpy(np.load(work / "window.npy"))
    np.save(work / "logits.npy", network(window).numpy())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
