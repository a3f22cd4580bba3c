"""The small world of `nano`: every word list its pre-training text is made from.

The lists were written for this project. A table is a block of lines with `|` between the columns;
`table` turns it into a list of tuples of strings. The grammars that use them are in `nano_text.py`.
"""


def table(block: str) -> list[tuple[str, ...]]:
    """Split a block of `a | b | c` lines into tuples, one for each line that is not empty."""
    return [tuple(cell.strip() for cell in line.split("|")) for line in block.splitlines() if line.strip()]


def words(block: str) -> list[str]:
    """Split a block at commas and line ends into single entries."""
    return [w.strip() for line in block.splitlines() for w in line.split(",") if w.strip()]


# name | where it is found | what people do with it | what it is made of
THINGS = table("""
kettle | in the kitchen | boil water | metal
spoon | in the drawer | eat soup | metal
fork | in the drawer | pick up food | metal
knife | in the drawer | cut bread | steel
cup | on the shelf | drink tea | clay
plate | on the table | hold food | clay
bowl | on the shelf | mix things | wood
pan | on the stove | fry eggs | iron
pot | on the stove | cook soup | metal
oven | in the kitchen | bake bread | metal
stove | in the kitchen | heat food | iron
bottle | on the shelf | keep water | glass
jar | in the cupboard | keep jam | glass
basket | by the door | carry fruit | straw
bucket | in the garden | carry water | plastic
broom | behind the door | sweep the floor | wood
mop | in the corner | wash the floor | cotton
sponge | by the sink | clean the dishes | foam
towel | in the bathroom | dry the hands | cotton
soap | by the sink | wash the hands | oil
brush | in the bathroom | brush the hair | wood
mirror | on the wall | look at yourself | glass
lamp | on the desk | light the room | metal
candle | on the table | make a small light | wax
chair | in the kitchen | sit down | wood
table | in the kitchen | eat together | wood
bed | in the bedroom | sleep | wood
pillow | on the bed | rest the head | feathers
blanket | on the bed | keep warm | wool
sofa | in the living room | rest | wood and cloth
carpet | on the floor | keep the feet warm | wool
curtain | by the window | keep the light out | cloth
clock | on the wall | tell the time | metal
key | in the pocket | open the door | metal
lock | on the door | keep the house safe | steel
door | at the front of the house | enter the house | wood
window | in the wall | let the light in | glass
shelf | on the wall | keep books | wood
box | under the bed | store old things | paper
bag | by the door | carry things | cloth
book | on the shelf | read stories | paper
letter | on the desk | send news | paper
newspaper | on the table | read the news | paper
pencil | on the desk | draw pictures | wood
pen | on the desk | write letters | plastic
notebook | in the bag | write things down | paper
ruler | in the drawer | draw straight lines | wood
map | in the car | find the way | paper
stamp | on the letter | pay for the post | paper
thimble | in the sewing box | push the needle | metal
umbrella | by the door | stay dry in the rain | cloth
coat | behind the door | keep warm outside | wool
hat | on the shelf | cover the head | felt
scarf | in the drawer | keep the neck warm | wool
shoe | by the door | walk outside | leather
belt | in the wardrobe | hold up the trousers | leather
ladder | in the garage | reach high places | wood
hammer | in the garage | hit nails | steel
saw | in the garage | cut wood | steel
rope | in the shed | tie things | hemp
shovel | in the shed | dig holes | iron
rake | in the shed | gather leaves | iron
wheel | on the cart | move heavy things | rubber
cart | in the yard | carry stones | wood
bicycle | in the yard | ride to work | steel
car | in front of the house | drive to town | steel
train | at the station | travel far | steel
boat | on the lake | cross the water | wood
bus | in the street | go to school | metal
radio | in the kitchen | hear music | plastic
phone | in the pocket | call a friend | glass and metal
camera | in the bag | take pictures | metal and glass
computer | on the desk | write and count | metal
piano | in the living room | play music | wood
guitar | in the corner | play songs | wood
drum | in the music room | keep the beat | wood and skin
violin | in its case | play soft music | wood
ball | in the garden | play games | rubber
doll | in the toy box | play house | cloth
kite | in the shed | fly in the wind | paper
tent | in the field | sleep outside | cloth
fence | around the garden | keep the animals in | wood
bench | in the park | sit in the sun | wood
bridge | over the river | cross the river | stone
tower | on the hill | see far away | stone
flag | on the tower | show the country | cloth
bell | in the tower | call the people | bronze
coin | in the purse | pay for small things | copper
ticket | in the pocket | enter the train | paper
button | on the coat | close the coat | bone
needle | in the sewing box | sew clothes | steel
thread | in the sewing box | sew clothes | cotton
fan | on the desk | move the air | plastic
heater | in the hall | warm the room | iron
""")

# name | home | food | what it does
ANIMALS = table("""
cat | in the house | fish | sleeps in the sun
dog | in the yard | meat | runs after the ball
cow | on the farm | grass | gives milk
horse | in the stable | hay | pulls the cart
sheep | on the hill | grass | gives wool
goat | on the farm | leaves | climbs on the rocks
pig | on the farm | corn | rolls in the mud
hen | in the barn | grain | lays eggs
duck | on the pond | bread | swims in the pond
goose | by the river | grass | flies south in winter
rabbit | in the field | carrots | jumps in the grass
mouse | in the wall | cheese | hides under the floor
fox | in the forest | mice | hunts at night
wolf | in the forest | meat | runs in a group
bear | in the forest | berries | sleeps all winter
deer | in the forest | leaves | runs very fast
owl | in the old tree | mice | flies at night
eagle | in the mountains | fish | flies very high
crow | on the roof | seeds | collects small things
pigeon | in the city | crumbs | walks in the square
bee | in the garden | nectar | makes honey
ant | under the stone | crumbs | carries small leaves
spider | in the corner | flies | makes a web
snail | under the leaf | lettuce | moves slowly
frog | in the pond | flies | jumps into the water
fish | in the river | small worms | swims all day
turtle | on the beach | plants | walks slowly
snake | in the desert | mice | lies on warm stones
lion | in the dry grass | meat | sleeps in the shade
elephant | near the river | leaves | remembers the way
monkey | in the jungle | fruit | climbs the trees
whale | in the sea | small fish | sings under water
penguin | on the ice | fish | walks in a line
camel | in the desert | dry grass | carries people
donkey | on the farm | hay | carries bags
""")

# name | taste | colour
FOODS = table("""
bread | plain | brown
butter | soft and salty | yellow
cheese | salty | yellow
milk | mild | white
honey | very sweet | golden
jam | sweet | red
soup | warm and salty | orange
rice | plain | white
pasta | plain | yellow
salad | fresh | green
apple | sweet | red
pear | sweet | green
lemon | sour | yellow
orange | sweet and sour | orange
banana | sweet | yellow
cherry | sweet | dark red
grape | sweet | purple
plum | sweet and sour | purple
peach | sweet | pink
strawberry | sweet | red
tomato | fresh | red
carrot | a little sweet | orange
potato | plain | brown
onion | sharp | white
garlic | strong | white
cabbage | plain | green
mushroom | mild | brown
egg | mild | white
cake | sweet | brown
pie | sweet | golden
chocolate | sweet and bitter | brown
coffee | bitter | black
tea | a little bitter | brown
salt | salty | white
sugar | sweet | white
pepper | hot | black
""")

# place | what people do there | who works there | what is there
PLACES = table("""
kitchen | cook meals | a cook | a stove and a table
garden | grow flowers | a gardener | a tree and a bench
school | learn new things | a teacher | many desks
library | read books | a librarian | a thousand books
market | buy fruit | a seller | fresh fish and bread
bakery | buy bread | a baker | a large oven
hospital | get well | a nurse | many beds
station | wait for the train | a guard | a big clock
park | walk in the sun | a gardener | old trees
beach | swim in the sea | a guard | warm sand
farm | keep animals | a farmer | a barn and a field
forest | walk among the trees | a ranger | tall trees
museum | look at old things | a guide | old paintings
theatre | watch plays | an actor | a stage
post office | send letters | a clerk | a box for letters
bank | keep money | a clerk | a heavy door
garage | repair cars | a mechanic | many tools
harbour | watch the boats | a sailor | ten boats
church | sit quietly | a priest | a tall tower
office | write letters | a manager | desks and lamps
hotel | sleep on a journey | a porter | many rooms
cafe | drink coffee | a waiter | small tables
bookshop | buy books | a seller | shelves of books
workshop | make chairs | a carpenter | wood and tools
playground | play with friends | a teacher | a slide
mountain | climb to the top | a guide | snow and rocks
river | catch fish | a fisherman | clear water
airport | take a plane | a pilot | long roads for planes
zoo | look at animals | a keeper | lions and bears
town hall | ask for papers | a mayor | a long hall
""")

# job | what the person does
JOBS = table("""
baker | bakes bread
farmer | grows food
teacher | teaches children
doctor | helps sick people
nurse | cares for sick people
cook | prepares meals
tailor | makes clothes
gardener | looks after plants
carpenter | makes things of wood
painter | paints pictures
writer | writes books
singer | sings songs
sailor | works on a ship
pilot | flies a plane
driver | drives a bus
fisherman | catches fish
miller | makes flour
shepherd | watches the sheep
librarian | looks after books
postman | brings letters
mechanic | repairs cars
plumber | repairs pipes
waiter | brings food to the table
judge | decides in court
builder | builds houses
barber | cuts hair
shoemaker | repairs shoes
clockmaker | repairs clocks
musician | plays music
soldier | guards the gate
""")

SHE_NAMES = words("""Anna, Maria, Lucy, Emma, Sara, Nina, Rosa, Clara, Julia, Vera, Ella, Ida, Marta, Alma, Eva, Greta,
Olga, Lena, Alice, Nora, Mina, Rita, Diana, Elsa, Tina""")
HE_NAMES = words("""Tom, Peter, John, Paul, David, Mark, Simon, Leo, Adam, Max, Oscar, Hugo, Felix, Bruno, Victor, Samuel,
Martin, Daniel, George, Henry, Walter, Arthur, Robert, Frank, Oliver""")

# word | its opposite
OPPOSITES = table("""
hot | cold
big | small
old | new
fast | slow
high | low
long | short
light | heavy
open | closed
full | empty
wet | dry
soft | hard
loud | quiet
early | late
clean | dirty
strong | weak
near | far
day | night
left | right
up | down
happy | sad
rich | poor
thick | thin
sweet | bitter
young | old
easy | difficult
bright | dark
first | last
wide | narrow
deep | shallow
safe | dangerous
""")

ADJECTIVES = words("""old, new, small, big, red, blue, green, white, black, brown, heavy, light, broken, clean, quiet,
long, round, soft, cheap, strange, pretty, wooden, empty, dusty, wet, dry, bright, plain, warm, cold""")
COLOURS = words("red, blue, green, white, black, brown, yellow, grey, orange, purple, pink")
CITIES = words("""Rome, Paris, London, Berlin, Madrid, Vienna, Oslo, Lisbon, Athens, Milan, Turin, Naples, Dublin,
Prague, Warsaw, Helsinki, Geneva, Tokyo, Cairo, Boston""")
WEATHER = words("""sunny, rainy, windy, cloudy, cold, warm, foggy, snowy, dry, mild""")
DAYS = words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS = words("""January, February, March, April, May, June, July, August, September, October, November, December""")
NUMBERS = words("""zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen,
fifteen, sixteen, seventeen, eighteen, nineteen, twenty""")

# plain form | -ing form | a short reason; each takes "the <thing>" as its object
ACTIONS = table("""
clean | cleaning | It was dirty.
repair | repairing | It was broken.
move | moving | It was in the way.
look for | looking for | I lost it yesterday.
look at | looking at | It is interesting.
paint | painting | It needs a new colour.
check | checking | I want to be sure it works.
carry | carrying | It must go upstairs.
wash | washing | It was covered in dust.
sell | selling | I do not need it now.
measure | measuring | I want to know its size.
draw | drawing | I like its shape.
bring | bringing | A friend asked for it.
prepare | preparing | We need it this evening.
finish | finishing | There is not much left to do.
use | using | It is the right one for the work.
""")

# -ing phrase | he/she form in the past
ACTIVITIES = table("""
reading a book | read a book
cooking dinner | cooked dinner
walking in the park | walked in the park
writing a letter | wrote a letter
cleaning the house | cleaned the house
working in the garden | worked in the garden
playing the piano | played the piano
learning a new song | learned a new song
painting the fence | painted the fence
making a cup of tea | made a cup of tea
waiting for the bus | waited for the bus
feeding the cat | fed the cat
looking for the keys | looked for the keys
listening to the radio | listened to the radio
baking a cake | baked a cake
folding the clothes | folded the clothes
washing the dishes | washed the dishes
buying fruit at the market | bought fruit at the market
repairing the bicycle | repaired the bicycle
watering the plants | watered the plants
drawing a map | drew a map
talking to a friend | talked to a friend
""")

# question | answer: facts that need no slot
FACTS = table("""
How many days are in a week? | There are seven days in a week.
How many months are in a year? | There are twelve months in a year.
How many hours are in a day? | There are twenty-four hours in a day.
How many minutes are in an hour? | There are sixty minutes in an hour.
How many legs does a spider have? | A spider has eight legs.
How many legs does a dog have? | A dog has four legs.
How many legs does a bird have? | A bird has two legs.
How many wheels does a bicycle have? | A bicycle has two wheels.
What colour is the sky? | On a clear day the sky is blue.
What colour is grass? | Grass is green.
What colour is snow? | Snow is white.
What colour is coal? | Coal is black.
Where does the sun rise? | The sun rises in the east.
Where does the sun set? | The sun sets in the west.
When do the leaves fall? | The leaves fall in autumn.
When does it snow? | It snows in winter.
When do flowers open? | Many flowers open in spring.
What is ice? | Ice is frozen water.
What is rain? | Rain is water that falls from the clouds.
What is paper made from? | Paper is made from wood.
What is bread made from? | Bread is made from flour, water and salt.
What is cheese made from? | Cheese is made from milk.
Why do we sleep? | We sleep because the body needs rest.
Why do we eat? | We eat because food gives us strength.
Why is the sea salty? | Rivers carry salt from the rocks to the sea.
Why do birds fly south? | They fly south because the winter is cold.
What do plants need? | Plants need water, light and air.
What comes after spring? | Summer comes after spring.
What comes after summer? | Autumn comes after summer.
What comes after autumn? | Winter comes after autumn.
What comes after winter? | Spring comes after winter.
What comes after night? | Morning comes after night.
Which is bigger, the sun or the moon? | The sun is bigger than the moon.
Which is heavier, a stone or a feather? | A stone is heavier than a feather.
Which is faster, a horse or a snail? | A horse is faster than a snail.
Is fire hot? | Yes, fire is hot.
Is ice warm? | No, ice is cold.
Can fish fly? | No, most fish cannot fly. They swim.
Can birds swim? | Some birds can swim, such as ducks.
Can stones talk? | No, stones cannot talk.
""")

# Italian: article and noun | gender | where
IT_THINGS = table("""
il gatto | m | in casa
il cane | m | nel cortile
il libro | m | sul tavolo
il pane | m | in cucina
il tavolo | m | in cucina
il treno | m | alla stazione
il fiore | m | nel giardino
il cappello | m | nell'armadio
la sedia | f | in cucina
la lampada | f | sulla scrivania
la mela | f | nel cesto
la chiave | f | nella tasca
la lettera | f | sul tavolo
la porta | f | in fondo al corridoio
la bicicletta | f | nel cortile
la tazza | f | sullo scaffale
la barca | f | sul lago
la finestra | f | vicino al letto
""")
IT_ADJECTIVES = {
    "m": words("rosso, nuovo, vecchio, piccolo, pulito, bello, nero, bianco"),
    "f": words("rossa, nuova, vecchia, piccola, pulita, bella, nera, bianca"),
}
IT_NAMES = words("Anna, Marco, Lucia, Paolo, Giulia, Luca, Marta, Sara, Pietro, Elena, Carlo, Chiara")
IT_ACTIONS = words("""legge un libro, beve il caffè, cammina nel parco, scrive una lettera, prepara la cena,
guarda il mare, ascolta la musica, compra il pane, lavora in giardino, aspetta il treno, canta una canzone""")
IT_FACTS = table("""
Quanti giorni ci sono in una settimana? | In una settimana ci sono sette giorni.
Quanti mesi ci sono in un anno? | In un anno ci sono dodici mesi.
Di che colore è la neve? | La neve è bianca.
Di che colore è il cielo? | Il cielo è azzurro.
Come stai? | Sto bene, grazie. E tu?
Che cosa mangi? | Mangio il pane con il formaggio.
Dove sorge il sole? | Il sole sorge a est.
Che tempo fa oggi? | Oggi c'è il sole e fa caldo.
Qual è la capitale d'Italia? | La capitale d'Italia è Roma.
Come si dice cat in italiano? | Si dice gatto.
Come si dice bread in italiano? | Si dice pane.
Come si dice book in italiano? | Si dice libro.
""")

# consonant starts, vowels and ends of the syllables of made-up words
ONSETS = words(
    "b,c,d,f,g,h,j,k,l,m,n,p,qu,r,s,t,v,w,y,z,bl,br,ch,cl,cr,dr,fl,fr,gl,gr,pl,pr,sc,sh,sk,sl,sn,sp,st,str,sw,"
    "th,tr,tw,wh"
)
VOWELS = words("a,e,i,o,u,a,e,i,o,u,ai,ea,ee,oo,ou,oa,ie,y,au,io")
CODAS = words(
    "b,d,ck,ft,g,l,ll,m,mp,n,nd,ng,nt,p,r,rd,rk,rm,rn,s,sh,sk,ss,st,t,tch,th,x,w,ble,ge,ment,tion,er,or,le,et,al,ic"
)
