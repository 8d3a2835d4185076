"""How fast dogscats is: beside fastai, beside what the machine can do, and as the work grows."""
