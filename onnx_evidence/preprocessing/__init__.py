"""From a picture to the model's input, as the trainers' libraries do it: the contract, its sources, carrying it out."""
