"""Data sets by name and your own images by path, loaded as uint8 arrays."""

from attractor_ae.data.decode import ImageFormat as ImageFormat
from attractor_ae.data.image_set import ImageSet as ImageSet
from attractor_ae.data.image_set import Wanted as Wanted
from attractor_ae.data.info import DatasetInfo as DatasetInfo
from attractor_ae.data.load import Dataset as Dataset
from attractor_ae.data.load import DatasetStatus as DatasetStatus
from attractor_ae.data.load import clear as clear
from attractor_ae.data.load import data_root as data_root
from attractor_ae.data.load import download as download
from attractor_ae.data.load import find_dataset as find_dataset
from attractor_ae.data.load import load as load
from attractor_ae.data.load import own_names as own_names
from attractor_ae.data.registry import CATALOGUE as CATALOGUE
