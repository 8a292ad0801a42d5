"""Opens a generator in the browser: a gallery of seeds, with truncation, length, level, class, and interpolation.

python -m tganv2_tf.explore --model_dir=runs/ucf101
python -m tganv2_tf.explore --saved_model=saved_models/ucf101/1 --port=8080

By default it accepts connections from this machine only; see --host. It makes no connections to other machines. Anyone
who can reach it can generate videos; there is no password. It needs Gradio, and so Python 3.10 or newer:
requirements-explore.txt, or the extra `explore` of the package.
"""

from __future__ import annotations

import dataclasses
import sys

from tganv2_tf import cli
from tganv2_tf.errors import ConfigError
from tganv2_tf.explorer.limits import Limits
from tganv2_tf.options import option, require


@dataclasses.dataclass(frozen=True)
class Command:
    """Generator and address of the page."""

    model_dir: str = option("a run, RUN/best, or a checkpoint such as RUN/snapshots/ckpt-10000", "")
    saved_model: str = option("folder of one version of a SavedModel, instead of --model_dir", "")
    host: str = option("address to listen on; 0.0.0.0 = accessible from the whole network", "127.0.0.1")
    port: int = option("port to listen on; 0 = any free port", 7860)

    def __post_init__(self) -> None:
        if bool(self.model_dir) == bool(self.saved_model):
            raise ConfigError("specify exactly one of --model_dir and --saved_model")
        require(0 <= self.port < 2**16, "port", self.port, "a whole number from 0 to 65535")


def main(command: Command, limits: Limits) -> int:
    from tganv2_tf.explorer import server

    with server.listen(command.host, command.port) as listener, server.temporary_files():
        server.load_gradio()
        from tganv2_tf.explorer import app  # imports TensorFlow: after all other checks
        from tganv2_tf.sampling.sampler import load_sampler

        application = app.application(load_sampler(command.model_dir, command.saved_model), limits)
        print(f"Explorer: {server.address(listener)} (press Ctrl-C to stop)", flush=True)
        try:
            server.serve(application, listener, limits.max_connections)
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main, (Command, Limits), "tganv2_tf.explore", __doc__))
