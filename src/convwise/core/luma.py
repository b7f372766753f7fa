"""How bright a colour is."""

# Shares of red, green and blue in gray: ITU-R BT.601, as Pillow's conversion to 'L'
LUMA = (0.299, 0.587, 0.114)
