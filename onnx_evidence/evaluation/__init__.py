"""How faithful maps are, measured on the deployed file: what ``onnx-evidence evaluate`` prints.

A method is any function from a `case.Case` to a map in the pixels of the model's input, so that maps computed elsewhere
are measured by the same instruments.

* `flipping`: what the model says while blocks of pixels are removed, and areas under it; `substrates`: what removed
  pixels become.
* `measures`: localisation, noise and focus of one map; `seen`: pictures changed by a little, for stability.
* `bootstrap`: intervals over pictures.
* `mappers`: methods and controls as functions; `given`: true classes, masks and boxes from files.
* `loop`: everything of every method on every picture; `summary`, `report`, `figure`: what is made of it.
"""
