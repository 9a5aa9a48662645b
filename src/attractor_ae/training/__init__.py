"""Training: the loop, the objective, checkpoints and history."""

from attractor_ae.training.features import features_of as features_of
from attractor_ae.training.features import with_features as with_features
from attractor_ae.training.loop import train as train
from attractor_ae.training.objective import Network as Network
from attractor_ae.training.objective import build_network as build_network
from attractor_ae.training.preparation import trained_on as trained_on
from attractor_ae.training.preparation import training_augmentation as training_augmentation
from attractor_ae.training.preparation import training_part as training_part
