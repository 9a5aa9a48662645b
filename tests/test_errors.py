from attractor_ae._errors import unknown_name


def test_names_the_nearest_whatever_the_case():
    line = str(unknown_name("activation", "rel", ["ReLU", "SiLU"]))
    assert line == "unknown activation 'rel'; did you mean 'ReLU'? Known: ReLU, SiLU"


def test_names_no_nearest_where_nothing_is_near():
    assert str(unknown_name("head", "forest", ["mlp", "knn"])) == (
        "unknown head 'forest'; known: mlp, knn"
    )
    assert str(unknown_name("data set", "nothere", ["textures", "faces"])) == (
        "unknown data set 'nothere'; known: textures, faces"
    )
