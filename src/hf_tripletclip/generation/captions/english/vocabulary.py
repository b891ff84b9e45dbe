# SPDX-License-Identifier: Apache-2.0
"""Nouns that can be seen in pictures, by kind, with the words that may be true of the same thing."""

from __future__ import annotations

from dataclasses import dataclass

from hf_tripletclip.generation.captions.english import words


@dataclass(frozen=True)
class Group:
    """
    Nouns of a kind.

    Args:
        name (`str`): The kind.
        words (`str`): Nouns, separated by commas; those that may look alike by slashes.
        anchors (`str`): WordNet's synsets under which nouns that are not listed belong here.
        mass (`bool`): Whether they take no "a" and no plural.
        classes (`str`): What may be done with them, see `lexicon`: `thing`, `person`, `animal`, `box`, `food`, ...
        after (`str`): The prepositions after which they may be replaced; after none of them where it is empty: any.
    """

    name: str
    words: str
    anchors: str = ""
    mass: bool = False
    classes: str = "thing"
    after: str = ""

    @property
    def sets(self) -> list[tuple[str, ...]]:
        return [tuple(word.strip() for word in alike.split("/")) for alike in self.words.split(",")]


_IN = "in through across near outside inside of"
_ON = "on along across near down over"
GROUPS = (
    Group("male", "man/guy/gentleman/father/dad/husband/male/boy/son", "", classes="person"),
    Group("female", "woman/lady/mother/mom/wife/bride/female/girl/daughter", "", classes="person"),
    Group("boy", "boy/son/man/guy", "", classes="person"),
    Group("girl", "girl/daughter/woman/lady", "", classes="person"),
    Group("child", "child/kid/toddler/baby/infant", "child.n.01", classes="person"),
    Group("person", "person/adult/individual/rider/passenger/pedestrian/traveler/tourist/spectator/bystander",
          "", classes="person"),
    Group("role", "surfer, skateboarder, skier, snowboarder, cyclist/biker/bicyclist/motorcyclist, chef/cook/baker, "
          "police officer/policeman/officer/cop, firefighter/fireman, nurse, clown, soldier, cowboy, astronaut, "
          "batter/catcher/umpire/pitcher/baseball player, tennis player, soccer player, nun, waiter/waitress",
          "person.n.01", classes="person"),
    Group("pets", "dog/puppy, cat/kitten, rabbit, pig, goat, monkey, fox, squirrel, chicken", "canine.n.02 "
          "feline.n.01 "
          "rodent.n.01 leporid.n.01", classes="animal"),
    Group("livestock", "horse/pony/donkey/foal, cow/bull/calf/ox/bison/steer/cattle, sheep/lamb, goat, pig, camel, "
          "dog, "
          "elephant, llama/alpaca", "equine.n.01 bovine.n.01 domestic_animal.n.01 sheep.n.01 goat.n.01",
          classes="animal"),
    Group("wild animals", "giraffe, elephant, zebra, lion, tiger, leopard/cheetah/jaguar, monkey/gorilla, kangaroo, "
          "camel, "
          "deer/moose/elk/antelope/gazelle, bear/polar bear/grizzly bear/brown bear/black bear, panda/panda bear, "
          "wolf/fox, "
          "rhino/rhinoceros, hippo/hippopotamus", "mammal.n.01", classes="animal"),
    Group("birds", "duck/goose/swan, pigeon/dove/seagull/gull/sparrow, parrot/parakeet/cockatoo, owl, "
          "eagle/hawk/falcon, "
          "rooster/hen/turkey, penguin, peacock, flamingo, ostrich, bird, squirrel, butterfly, bat", "bird.n.01",
          classes="animal"),
    Group("sea animals", "crab/lobster, turtle/tortoise, shark, dolphin, jellyfish, octopus, seal, fish",
          "aquatic_vertebrate.n.01 aquatic_mammal.n.01", classes="animal"),
    Group("insects", "butterfly/moth, bee/wasp, ladybug/beetle, spider, dragonfly, ant, grasshopper, fly",
          "insect.n.01",
          classes="animal"),
    Group("seats", "chair/stool/armchair/recliner/rocking chair/lawn chair/seat/folding chair, bench/park bench/pew, "
          "couch/sofa/loveseat/futon, table/desk/coffee table/dining table/nightstand/end table/picnic table, "
          "bed/bunk bed/crib, dresser/cabinet/cupboard/wardrobe/closet, bookshelf/bookcase/shelf",
          "furniture.n.01"),
    Group("rooms", "kitchen/kitchenette/dining room, bathroom/restroom/washroom, bedroom/hotel room, living "
          "room/lounge/"
          "family room/dining room, office/cubicle, classroom, garage, hallway/corridor, library, gym, "
          "cafe/restaurant",
          "room.n.01", classes="place", after=_IN),
    Group("fixtures", "toilet/urinal, sink/basin, bathtub/tub/bath tub/bath, shower, towel rack",
          "plumbing_fixture.n.01"),
    Group("appliances", "refrigerator/fridge/freezer, oven/stove/stove top/toaster oven/microwave/microwave oven, "
          "dishwasher, washing machine/dryer, toaster, blender/food processor/mixer, coffee maker/coffee "
          "machine/kettle",
          "home_appliance.n.01"),
    Group("electronics", "laptop/computer/laptop computer/desktop computer/desktop/computer monitor/computer screen, "
          "television/tv/monitor/screen/flat screen tv/flat screen television, phone/cell phone/cellphone/telephone/"
          "smartphone/smart phone/mobile phone, camera, keyboard/computer keyboard, radio/stereo/speaker, "
          "printer/copier, remote/remote control/controller/game controller/wii remote/wii controller, tablet/ipad",
          "electronic_equipment.n.01 computer.n.01", classes="thing device"),
    Group("vehicles", "car/sedan/automobile/suv/taxi/cab/convertible/police car/sports car/van/minivan, "
          "truck/pickup/pickup truck/fire truck/dump truck/semi truck/tow truck/food truck, "
          "bus/double decker bus/school bus/tour bus/city bus/double-decker bus, "
          "motorcycle/motorbike/moped/scooter/dirt bike/motor bike, bicycle/bike/tricycle/mountain bike, "
          "tractor/bulldozer, "
          "train/locomotive/tram/trolley/passenger train/subway train/freight train/commuter train/steam engine, "
          "carriage/cart/wagon/buggy/horse carriage, limousine", "wheeled_vehicle.n.01 public_transport.n.01",
          classes="thing vehicle"),
    Group("aircraft", "airplane/plane/jet/jetliner/airliner/aeroplane/jet plane/jumbo jet/passenger plane/"
          "passenger jet/fighter jet/biplane/aircraft, helicopter, hot air balloon/blimp, rocket, bird, kite",
          "aircraft.n.01"),
    Group("boats", "boat/sailboat/rowboat/motorboat/ship/yacht/ferry/speedboat/barge/sail boat/cruise ship/fishing "
          "boat, "
          "canoe/kayak/gondola, raft, jet ski, submarine, surfboard", "vessel.n.02", classes="thing "
          "vehicle"),
    Group("boards", "surfboard/surf board/boogie board, skateboard/skate board/longboard, snowboard/snow board, "
          "sled/sleigh, bicycle/bike, unicycle, scooter", "", classes="thing board"),
    Group("sports things", "frisbee/frisbie/disc, ball/baseball/tennis ball/soccer "
          "ball/basketball/football/volleyball, "
          "kite, balloon, boomerang, tennis racket/tennis racquet/racket/racquet/tennis rackets, "
          "baseball bat, golf club, hockey stick, hula hoop", "sports_equipment.n.01"),
    Group("upper clothes", "shirt/t-shirt/tee shirt/blouse/tank top/top/sweater/hoodie/sweatshirt/dress shirt, "
          "jacket/coat/vest/blazer/parka/raincoat, dress/gown/robe, suit/tuxedo/business suit, skirt/kilt, "
          "uniform/jersey/costume, apron, scarf", "garment.n.01", classes="thing clothing"),
    Group("hats", "hat/cap/baseball cap/beanie/cowboy hat/top hat/straw hat/baseball hat/hard hat, helmet, "
          "crown/tiara, scarf, mask, necklace, wig", "headdress.n.01 jewelry.n.01", classes="thing clothing"),
    Group("ties", "tie/necktie/bow tie/bowtie, scarf, necklace, backpack, watch, belt", "neckwear.n.01",
          classes="thing clothing"),
    Group("plates", "bowl, plate/dish/platter/saucer/tray, cup/mug/glass/wine glass/coffee cup/coffee mug/tea cup, "
          "bottle/jar/jug/pitcher/wine bottle/beer bottle/water bottle, pan/pot/skillet/frying pan/wok, basket, "
          "bucket, box/carton", "vessel.n.03 crockery.n.01", classes="thing box"),
    Group("vases", "vase/flower vase/flower pot/pot/flowerpot/planter, basket, bucket, bottle/jar, teapot", "",
          classes="thing box"),
    Group("bags", "suitcase/bag/backpack/purse/handbag/briefcase/duffel bag/tote bag/back pack/carry-on/hand bag, "
          "box/crate/carton/cardboard box/trunk, basket, bucket/barrel, cage", "baggage.n.01 box.n.01 bag.n.01",
          classes="thing box"),
    Group("cutlery", "fork, knife/butter knife, spoon/ladle, spatula, whisk", "cutlery.n.02 kitchen_utensil.n.01"),
    Group("dishes", "pizza, sandwich/burger/hamburger/cheeseburger/sub, hot dog/hotdog/chili dog, cake/birthday cake/"
          "wedding cake/cupcake/chocolate cake, donut/doughnut/bagel/pastry/croissant, pie/tart, cookie/biscuit, "
          "burrito/taco/quesadilla, omelet/omelette, pancake/waffle, salad, hamburger", "dish.n.02 baked_goods.n.01",
          classes="thing food"),
    Group("fruit", "apple, banana, orange/tangerine, pear, lemon/lime, strawberry, pineapple, watermelon, peach, "
          "mango, "
          "grape, cherry", "edible_fruit.n.01", classes="thing food"),
    Group("vegetables", "carrot, tomato, potato, cucumber/zucchini/pickle, onion, mushroom, pumpkin/squash, eggplant, "
          "radish", "vegetable.n.01", classes="thing food"),
    Group("sliced foods", "pizza, cake/chocolate cake/birthday cake, bread/toast, pie, cheese/cheesecake, watermelon",
          mass=True, classes="thing food"),
    Group("loose foods", "rice, pasta/spaghetti, broccoli/cauliflower, soup/stew/chili, "
          "salad/lettuce/spinach/cabbage, "
          "cereal/oatmeal, popcorn, ice cream, corn, chicken/meat/beef/pork/steak, bacon/ham, chocolate", mass=True,
          classes="thing food"),
    Group("drinks", "milk, coffee/tea/hot chocolate, juice/orange juice/lemonade, beer, wine/red wine/white wine, "
          "soda",
          "beverage.n.01", mass=True, classes="drink"),
    Group("grounds", "grass, snow/ice, sand/dirt, mud, water, gravel", mass=True, classes="ground",
          after="in on through over across by with"),
    Group("games", "tennis, baseball/softball, soccer, basketball, volleyball, golf, hockey, cricket, frisbee, "
          "football/rugby, badminton, polo, chess", mass=True, classes="game"),
    Group("in places", "forest/woods/jungle, desert, park/garden/yard/backyard, field/meadow/pasture/grassland, "
          "city/town/village, parking lot, cave, swamp/marsh, vineyard, stadium, zoo",
          classes="place", after=_IN),
    Group("on places", "beach/shore/coast, street/road/highway/city street/freeway/alley, "
          "sidewalk/path/trail/walkway, bridge, "
          "mountain/hill/slope/mountainside/hillside/ski slope, runway/tarmac, dock/pier, rooftop/roof, stage, "
          "baseball field/soccer field/football field, tennis court/basketball court, track", classes="place",
          after=_ON),
    Group("waters", "river/stream/creek, lake/pond, ocean/sea, swimming pool/pool, fountain", "body_of_water.n.01",
          classes="place", after=_IN + " by into"),
    Group("buildings", "house/home/cottage/cabin/mansion/hut, barn/stable/farm house, church/cathedral/temple/chapel, "
          "skyscraper/tower/clock tower, castle/palace, lighthouse, windmill, tent, fountain, "
          "statue/monument/sculpture, store/shop/restaurant/cafe/hotel/bakery/market, gas station, train station, "
          "school, hospital",
          "building.n.01", classes="thing building"),
    Group("street things", "traffic light/stop light/stoplight/traffic signal/street light/streetlight/street "
          "lamp/lamp post/lamppost/light pole, stop sign/street sign/sign/road sign/traffic sign/billboard, fire "
          "hydrant/hydrant, "
          "parking meter/meter, mailbox/mail box, phone booth, trash can/garbage can/dumpster, statue, fountain, "
          "flag/flagpole, clock, tree, bench", "", classes="thing"),
    Group("barriers", "fence/railing/gate/rail/chain link fence/wire fence/wooden fence, wall/brick wall, hedge/bush, "
          "curtain/drape", "barrier.n.01"),
    Group("plants", "tree/palm tree/pine tree/christmas tree, bush/shrub/hedge, "
          "flower/rose/tulip/sunflower/daisy/orchid, cactus, mushroom, fern", "vascular_plant.n.01",
          classes="thing plant"),
    Group("household", "clock/alarm clock/wall clock, mirror, vase, lamp/lantern, candle, pillow/cushion, "
          "blanket/towel/quilt/bedspread/comforter, rug/carpet/mat, umbrella/parasol, fan/ceiling fan, teddy bear, "
          "painting", "timepiece.n.01 bedclothes.n.01 lamp.n.01"),
    Group("umbrellas", "umbrella/parasol, flag, kite, balloon, tent, sign", ""),
    Group("toys", "teddy bear/stuffed animal/stuffed bear/stuffed teddy bear/bear, doll, robot, toy car, puppet, "
          "balloon, toy train", "toy.n.01"),
    Group("tools", "hammer, screwdriver, wrench, broom/mop, shovel/rake, ladder, paintbrush, toothbrush/tooth brush, "
          "comb/hair brush/hairbrush, hair dryer/hairdryer/blow dryer, razor", "hand_tool.n.01 brush.n.02"),
    Group("papers", "book/notebook/novel, newspaper/magazine, map, letter/envelope, photo album", "book.n.01"),
    Group("instruments", "guitar/banjo/ukulele, violin/cello, piano, drum, trumpet/trombone, saxophone, flute, harp",
          "musical_instrument.n.01"),
)  # fmt: skip

# The group in which a word that is listed in several is replaced; where none is named, the first.
FIRST_GROUP = {
    "bags": "basket, box, bucket",
    "birds": "bird",
    "boards": "surfboard",
    "boy": "boy, son",
    "buildings": "fountain, statue, tent",
    "dishes": "pastry",
    "electronics": "screen",
    "female": "lady, woman",
    "girl": "daughter, girl",
    "hats": "hat",
    "household": "clock, painting",
    "in places": "field, park",
    "insects": "butterfly",
    "instruments": "piano",
    "livestock": "camel, goat, pig",
    "male": "guy, man",
    "on places": "dock",
    "papers": "letter",
    "pets": "chicken, dog, monkey, squirrel",
    "plants": "bush, flower, hedge, tree",
    "plates": "bottle, dish, glass, pot",
    "role": "cook",
    "sea animals": "seal",
    "seats": "bench",
    "sports things": "baseball, basketball, football, frisbee, kite, volleyball",
    "street things": "sign",
    "ties": "watch",
    "toys": "balloon, teddy bear",
    "umbrellas": "flag, umbrella",
    "upper clothes": "jersey, scarf",
    "vases": "vase",
    "vegetables": "mushroom",
    "vehicles": "bicycle, bike, scooter",
    "waters": "pool",
    "wild animals": "bear, elephant",
}
GROUP_OF = {word: name for name, text in FIRST_GROUP.items() for word in text.split(", ")}
# People of whom more than one of the words may be true at once, so what they are replaced by is listed.
PEOPLE = {
    "male": ("female", "girl"), "female": ("male", "boy"), "boy": ("girl", "female"), "girl": ("boy", "male"),
    "child": ("robot", "dog", "monkey"),
    "person": ("robot", "monkey", "dog", "clown"), "role": ("robot", "monkey", "clown", "astronaut", "nun", "cowboy"),
}  # fmt: skip
FIRST = {"male": "man", "female": "woman"}
HE = words("man men boy boys guy guys gentleman gentlemen father husband son")
SHE = words("woman women girl girls lady ladies mother wife bride")

# Nouns of too many meanings, or that mean too much or too little for another to be false.
NEVER = words(
    "air amount animal appliance area assortment back background baggage bat bedding bit bottom bunch center close- "
    "up closeup clothing collection container corner costume couple crowd cutlery day desktop dessert device disc "
    "door edge end equipment female flock fly food footwear foreground front fruit furniture glasses group headgear "
    "herd home image individual jewelry kind line lot lots luggage machinery male market mask meal meter middle "
    "mount mouse night number outfit pair part pet photo photograph picture piece pieces pile pitcher row scene "
    "seafood seat set shot side silverware slice slices snack space speaker stable stack stage stuff tablet team "
    "time top toy track treat type utensil variety vegetable vehicle view way window"
)
# WordNet lists "black cat" and "old man", but in captions they are a cat that is black and a man who is old.
LITERAL = words("cat horse sheep elephant dog man woman person people lady spoon basket wall cake boat drum plate")
PICTURES = words(
    "picture photo photograph image painting drawing shot view portrait illustration sketch poster photos pictures "
    "images stock vector"
)  # fmt: skip
