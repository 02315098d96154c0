"""The config of a run: what is read, how it is cut, what is trained; every key typed, none ignored.

`load_config` reads a YAML file into a `Config`. A key that does not exist is refused with the nearest one
that does, a value that cannot be used with what can; the error is one line with the file, the line and the
key: `jets.yaml:12: data.variabels: unknown key; nearest: 'variables'`.

Relative paths in a config start from the folder of its file, so that a run does not depend on where it is
started.
"""

from timelike.config.data import (
    ClipConfig,
    CountsConfig,
    DataConfig,
    FoldsConfig,
    FractionsConfig,
    RemaindersConfig,
    SequenceConfig,
    SourceConfig,
    SplitConfig,
    StreamConfig,
)
from timelike.config.network import (
    BatchNormConfig,
    GRUConfig,
    HeadConfig,
    LSTMConfig,
    NetworkConfig,
    RNNConfig,
)
from timelike.config.run import Config, load_config
from timelike.config.scan import ScanParameter, ScanSpace
from timelike.config.training import (
    AdadeltaConfig,
    AdagradConfig,
    AdamConfig,
    ConstantSchedule,
    CosineSchedule,
    EarlyStoppingConfig,
    EvaluationConfig,
    FlattenConfig,
    InspectConfig,
    PhaseConfig,
    PlateauSchedule,
    RegularisationConfig,
    RMSpropConfig,
    SGDConfig,
    TrainingConfig,
)

__all__ = [
    "AdadeltaConfig",
    "AdagradConfig",
    "AdamConfig",
    "BatchNormConfig",
    "ClipConfig",
    "Config",
    "ConstantSchedule",
    "CosineSchedule",
    "CountsConfig",
    "DataConfig",
    "EarlyStoppingConfig",
    "EvaluationConfig",
    "FlattenConfig",
    "FoldsConfig",
    "FractionsConfig",
    "GRUConfig",
    "HeadConfig",
    "InspectConfig",
    "LSTMConfig",
    "NetworkConfig",
    "PhaseConfig",
    "PlateauSchedule",
    "RMSpropConfig",
    "RNNConfig",
    "RegularisationConfig",
    "RemaindersConfig",
    "SGDConfig",
    "ScanParameter",
    "ScanSpace",
    "SequenceConfig",
    "SourceConfig",
    "SplitConfig",
    "StreamConfig",
    "TrainingConfig",
    "load_config",
]
